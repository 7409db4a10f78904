// What the plans of all families and their kernels share. Plain C++ without torch and without CUDA:
// the tests read it, too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

// Of the blocks that a multiprocessor shall hold: from sm_100 on the compiler (nvcc 13.0) takes
// more registers for the same source, and some kernels would spill with as many blocks as before.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
inline constexpr bool kMoreRegisters = true;
#else
inline constexpr bool kMoreRegisters = false;
#endif

inline constexpr int kWarp = 32;         // lanes
inline constexpr int kVectorBytes = 16;  // of the widest access of a lane
inline constexpr int kSectorBytes = 32;  // what memory is read in
// Shared memory of a block that no device attribute has to be set for.
inline constexpr int kSharedBytes = 48 * 1024;
// What a workspace, and each part of it, is aligned to.
inline constexpr int kWorkspaceAlignment = 256;

}  // namespace fastcam
