"""The networks, and how they are built and initialized."""
