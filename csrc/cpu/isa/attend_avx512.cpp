// The kernels of cpu/kernels/attend.h for avx512.
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
#include "cpu/kernels/attend.h"
#endif
