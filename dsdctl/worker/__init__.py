"""One piece of work: its inputs, where it starts, a level, a process for it."""
