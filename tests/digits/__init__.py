"""What specs/digits.yaml and its control must show, and how often they do over other seeds."""
