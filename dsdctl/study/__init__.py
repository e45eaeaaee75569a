"""Results in Python: a spec and what a store holds of it, read only."""
