// The CPU kernels for baseline; see masked_kernels_impl.h.
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define FASTCAM_ISA baseline
#define FASTCAM_VECTOR_BYTES 16
#include "masked_kernels_impl.h"
