"""Jobs of Slurm: how they are submitted, and how they stand."""
