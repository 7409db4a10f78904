// What the plans of all families and their kernels share. Plain C++ without torch and without CUDA:
// the tests read it, too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "common/params.h"
#include "common/scalar.h"

namespace fastcam {

inline constexpr int kWarp = 32;         // lanes
inline constexpr int kVectorBytes = 16;  // of the widest access of a lane
inline constexpr int kSectorBytes = 32;  // what memory is read in
// Shared memory of a block that no device attribute has to be set for.
inline constexpr int kSharedBytes = 48 * 1024;
// What a workspace, and each part of it, is aligned to.
inline constexpr int kWorkspaceAlignment = 256;

}  // namespace fastcam
