"""A user's own code: found, read and digested without running it; loaded where work is done."""
