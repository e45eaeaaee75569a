"""Networks, data, pruning, training and measuring on torch and torchvision alone."""
