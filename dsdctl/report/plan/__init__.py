"""What a run plan would do, as plain data and as text."""
