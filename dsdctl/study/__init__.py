"""Results from Python: a spec beside what a store holds of it, read only."""
