// The kernels of cpu/kernels/cam.h for avx2.
#if defined(__x86_64__)
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#pragma GCC target("avx2,fma,f16c,prfchw")
#define FASTCAM_ISA avx2
#define FASTCAM_VECTOR_BYTES 32
#define FASTCAM_ISA_NAME "avx2"
#include "cpu/kernels/cam.h"
#endif
