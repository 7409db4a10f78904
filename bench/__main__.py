"""``python -m bench [NAME] [options]``: run one benchmark; each has ``--help``."""

from __future__ import annotations

import importlib
import sys
from typing import TextIO

BENCHMARKS = {
    "cpu": "ops, training step and peers on the CPU, side by side (the default)",
    "report": "tables, plots and the table of docs/speed.md from bench/results",
    "gpu": "the ops on a GPU against the eager reference and torch.compile",
    "guidance": "is guidance safe to switch on? a matrix of fine-tunings on synthetic faces",
    "input": "images a second from JPEG and from the cache, beside what AlexNet takes",
    "large": "guided fine-tunings in batches of 256 to 4,096, and their memory",
    "faults": "kills at random moments: does the next run end as if nothing had been?",
    "fuzz": "calls of public functions with anything: right, or an error that names the argument",
    "fuzz-guided": "the same, guided by the lines that are reached (needs atheris)",
    "resources": "registers, stack and spills of the CUDA kernels (no GPU needed)",
}

MODULES = {"resources": "cuda_resources", "report": "speed_report", "fuzz-guided": "fuzz_guided"}


def _list(file: TextIO) -> None:
    for known, what in BENCHMARKS.items():
        print(f"  {known:<12} {what}", file=file)


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: python -m bench [NAME] [options]\n\nBenchmarks (NAME --help: its options):")
        _list(sys.stdout)
        return 0
    name = "cpu"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    if name not in BENCHMARKS:
        print(f"no benchmark {name!r}; there are:", file=sys.stderr)
        _list(sys.stderr)
        return 2
    return importlib.import_module(f"bench.{MODULES.get(name, name)}").main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
