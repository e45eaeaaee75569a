"""From specs to work: rows, trajectories, progress in a store, and what to run next."""
