"""Networks, image tensors, pruning, training and measuring, on torch and torchvision alone."""
