"""Benchmarks: the fused ops against plain PyTorch and other libraries, in one interleaved run."""

import os

# torch's profiler, which counts allocations, logs to stderr otherwise; read when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
