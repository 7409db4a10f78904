"""Benchmarks: the fused ops against plain PyTorch, in one interleaved run."""
