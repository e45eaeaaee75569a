"""`dsdctl bench`: how fast this machine trains, against a plain PyTorch loop and its ceilings."""
