// The kernels of the family that is included next, for x86-64 with AVX512; on other processors
// none.
#pragma once

#if defined(__x86_64__)
#include "cpu/isa/standard_headers.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#define FASTCAM_ISA avx512
#define FASTCAM_ISA_NAME "avx512"
#define FASTCAM_VECTOR_BYTES 64
#endif
