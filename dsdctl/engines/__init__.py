"""Where work runs. The scheduler knows engines by the protocol in schedule.py alone."""
