// The kernels of the family that is included next, for x86-64 with AVX2; on other processors none.
#pragma once

#if defined(__x86_64__)
#include "cpu/isa/standard_headers.h"

#pragma GCC target("avx2,fma,f16c,prfchw")
#define FASTCAM_ISA avx2
#define FASTCAM_ISA_NAME "avx2"
#define FASTCAM_VECTOR_BYTES 32
#endif
