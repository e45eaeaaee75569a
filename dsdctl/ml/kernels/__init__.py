"""Compiled CPU kernels, and the layers that use them where that is faster."""
