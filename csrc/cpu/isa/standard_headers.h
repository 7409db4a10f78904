// What the vector code needs of the standard library, before a newer processor is chosen: what
// these headers define inline must run on every one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
