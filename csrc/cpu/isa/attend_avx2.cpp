// The kernels of cpu/kernels/attend.h for avx2.
#if defined(__x86_64__)
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#pragma GCC target("avx2,fma,f16c")
#define FASTCAM_ISA avx2
#define FASTCAM_VECTOR_BYTES 32
#include "cpu/kernels/attend.h"
#endif
