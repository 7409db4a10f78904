#include "cpu/isa/avx2.h"
// the instruction set first
#include "cpu/kernels/attend.h"
