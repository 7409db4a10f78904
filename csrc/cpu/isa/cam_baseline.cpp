#include "cpu/isa/baseline.h"
// the instruction set first
#include "cpu/kernels/cam.h"
