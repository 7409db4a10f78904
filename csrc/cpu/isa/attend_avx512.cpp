#include "cpu/isa/avx512.h"
// the instruction set first
#include "cpu/kernels/attend.h"
