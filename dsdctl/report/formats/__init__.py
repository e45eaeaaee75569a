"""The ways to show a comparison."""
