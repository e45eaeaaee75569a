"""The networks, and how one is built and initialized."""
