// The kernels of cpu/kernels/attend.h for baseline.
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define FASTCAM_ISA baseline
#define FASTCAM_VECTOR_BYTES 16
#include "cpu/kernels/attend.h"
