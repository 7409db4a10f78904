"""The calls of ``python -m bench fuzz``, guided by the lines of fastcam's Python that they reach.

    pip install atheris && python -m bench fuzz-guided --calls 100000

libFuzzer (https://github.com/google/atheris, not among the requirements: it has no wheel for every
Python) changes the bytes from which Hypothesis draws a call, and keeps what reaches a new line. It
ends with the first call that is neither right nor a fitting error.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench fuzz-guided", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--calls", type=int, default=100_000, help="default 100,000")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        import atheris
    except ImportError:
        print("fuzz-guided: needs atheris: pip install atheris", file=sys.stderr)
        return 2
    # What bench's own start has loaded is loaded again, with the lines counted.
    for name in [n for n in sys.modules if n.partition(".")[0] == "fastcam"]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["fastcam"]):
        fuzz = importlib.import_module("bench.fuzz")
    # From few bytes Hypothesis draws nothing: it begins with some that are long enough.
    corpus = Path(tempfile.mkdtemp(prefix="fastcam-fuzz-"))
    chance = random.Random(options.seed)
    for number in range(64):
        (corpus / str(number)).write_bytes(chance.randbytes(2048))
    flags = [f"-runs={options.calls}", f"-seed={options.seed}", "-max_len=4096", "-len_control=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], fuzz.fuzzed_bytes())
    atheris.Fuzz()  # does not return
    return 0
