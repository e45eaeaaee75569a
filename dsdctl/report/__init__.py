"""The comparison: typed rows from plan, store and stop rules, and the ways to show them."""
