// The kernels of the family that is included next, for every processor.
#pragma once

#include "cpu/isa/standard_headers.h"

#define FASTCAM_ISA baseline
#define FASTCAM_ISA_NAME "baseline"
#define FASTCAM_VECTOR_BYTES 16
