"""Faults of each class, tried against the real command."""
