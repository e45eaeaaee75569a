"""What was computed, by key: levels, tables, checkpoints; complete and checked, or not there."""
