"""Data sets as they lie in files: what is known of them, and how they are prepared; no torch."""
