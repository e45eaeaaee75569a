// What training on CPUs gains most from; dsdctl/ml/kernels/kernels.py calls it.
//
// Kernels are compiled once for each target and end with its name; who calls one knows that the
// processor can run it. KERNEL begins its definition, INLINE that of what it is made of, and
// INLINED is for constructors and, behind the parameters, for lambdas.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// With -DGENERIC as on other processors.
#if defined(__x86_64__) && !defined(GENERIC)
#define X86
#endif

#include "kernels_processor.h"

#define INLINED __attribute__((always_inline)) TARGET
#define INLINE INLINED static inline
#define KERNEL extern "C" TARGET int

enum Result { DONE, OUT_OF_MEMORY };

#ifdef X86
namespace avx512 {
constexpr int LANES = 16;
#define TARGET __attribute__((target("avx512f")))
#define NAMED(KERNEL) KERNEL##_avx512
#include "kernels_lanes.h"
#include "kernels_batch_norm.h"
#include "kernels_norm_relu.h"
#include "kernels_relu_norm.h"
#include "kernels_convolution.h"
#undef TARGET
#undef NAMED
}  // namespace avx512

namespace avx2 {
constexpr int LANES = 8;
#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(KERNEL) KERNEL##_avx2
#include "kernels_lanes.h"
#include "kernels_batch_norm.h"
#include "kernels_norm_relu.h"
#include "kernels_relu_norm.h"
#undef TARGET
#undef NAMED
}  // namespace avx2
#else
namespace generic {
constexpr int LANES = 4;
#define TARGET
#define NAMED(KERNEL) KERNEL##_generic
#include "kernels_lanes.h"
#include "kernels_batch_norm.h"
#include "kernels_norm_relu.h"
#include "kernels_relu_norm.h"
#undef TARGET
#undef NAMED
}  // namespace generic
#endif

// Of what source this was built, so that a library of another is not used.
extern "C" const char* kernels_source() { return SOURCE_DIGEST; }
