"""Where tasks run: processes of this machine, a Ray cluster."""
