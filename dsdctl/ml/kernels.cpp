// What training on CPUs gains most from; dsdctl/ml/kernels.py calls it.

#include "kernels_convolution.h"
#include "kernels_relu_norm.h"

// Of what source this was built, so that a library of another is not used.
extern "C" const char* kernels_source() { return SOURCE_DIGEST; }
