"""Finished work by key: levels, teacher tables, checkpoints; complete and verified, or missing."""
