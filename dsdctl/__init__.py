"""dsdctl: experiments on sparse double descent, from one YAML file to a comparison table."""

__version__ = "0.1.0"
