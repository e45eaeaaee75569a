"""What a user writes: the models of specs and recipes, YAML, and error messages about both."""
