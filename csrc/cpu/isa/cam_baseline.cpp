// The kernels of cpu/kernels/cam.h for baseline.
// Standard headers first: what they define inline must not be compiled for a newer processor.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define FASTCAM_ISA baseline
#define FASTCAM_VECTOR_BYTES 16
#define FASTCAM_ISA_NAME "baseline"
#include "cpu/kernels/cam.h"
