"""From specs to what is to be done: rows, trajectories, what is known, and what comes next."""
