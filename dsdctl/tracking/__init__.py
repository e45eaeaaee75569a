"""Trackers: W&B as a mirror of what a run says, in a process of its own."""
