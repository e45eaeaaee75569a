"""Compiled kernels for CPUs, and the operations that use them where they pay."""
