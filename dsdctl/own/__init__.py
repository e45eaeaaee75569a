"""A user's own code: found, read and hashed without running it; loaded where work is done."""
