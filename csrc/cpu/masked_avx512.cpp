// The CPU kernels for avx512; see masked_kernels_impl.h.
#if defined(__x86_64__)
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define FASTCAM_ISA avx512
#define FASTCAM_VECTOR_BYTES 64
#include "masked_kernels_impl.h"
#endif
