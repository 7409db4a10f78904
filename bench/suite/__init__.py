"""The benchmarks of ``python -m bench cpu``, run by pytest with pytest-benchmark."""
