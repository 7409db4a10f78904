// A family's table of kernels, declared for each instruction set. A macro alone: code in here would
// be compiled for a newer processor, too.
#pragma once

#if defined(__x86_64__)
#define FASTCAM_DECLARE_TABLES(Table, table) \
  namespace baseline {                       \
  extern const Table table;                  \
  }                                          \
  namespace avx2 {                           \
  extern const Table table;                  \
  }                                          \
  namespace avx512 {                         \
  extern const Table table;                  \
  }
#else
#define FASTCAM_DECLARE_TABLES(Table, table) \
  namespace baseline {                       \
  extern const Table table;                  \
  }
#endif
