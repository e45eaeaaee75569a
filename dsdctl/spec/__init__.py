"""What a user writes: the models of specs and recipes, YAML, and what is wrong with it in words."""
