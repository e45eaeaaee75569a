"""Data sets as files: their facts, how they are read, and how they are prepared; no torch."""
