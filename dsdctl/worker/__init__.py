"""Running one piece of work: its inputs, its starting point, a level, the worker process."""
