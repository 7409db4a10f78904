"""Everything on the CPU, side by side: the ops, the training step and the peers' Grad-CAM.

Runs bench/suite with pytest and pytest-benchmark, then writes cpu.json, cpu.md and plots. Further
options go to pytest: ``-k "cam_iou and N256"``, ``-k "not step"``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.report import machine
from bench.speed_report import ROOT, missing_peers, ops_table, others_table, write_all
from bench.suite.conftest import RECORDS
from bench.targets import targets_table

SUITE = ROOT / "bench" / "suite"
RAW = ROOT / "runs" / "bench" / "pytest-benchmark.json"  # all samples, and the host's name


class Kept:
    """What the suite measured; after Ctrl-C, what it had measured until then."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.records = config.stash.get(RECORDS, [])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds: a look, no result to keep"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder (bench/results to keep them)"
    )
    options, further = parser.parse_known_args(arguments)
    RAW.parent.mkdir(parents=True, exist_ok=True)
    RAW.unlink(missing_ok=True)
    torch.set_num_threads(options.threads)
    about = {**machine(), "load": round(os.getloadavg()[0], 2)}
    if about["load"] > 0.5:
        print(f"*** THIS MACHINE IS BUSY (load {about['load']}): ratios will be off ***")
    began = time.monotonic()
    kept = Kept()
    failed = pytest.main(
        [
            str(SUITE),
            *("-q", "-s", "-p", "no:cacheprovider", "--benchmark-quiet", "-o", "timeout=0"),
            f"--benchmark-json={RAW}",
            f"--threads={options.threads}",
            *(["--scale=0.1"] if options.quick else []),
            *further,
        ],
        plugins=[kept],
    )
    if not kept.records:
        print("bench cpu: nothing was measured")
        return int(failed) or 1
    records = kept.records
    about["quick"] = options.quick or None
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    write_all(options.out, about, records)
    for text in (ops_table(records), others_table(records), targets_table(records)):
        print(f"\n{text}")
    for line in missing_peers(records):
        print(f"*** {line} ***")
    print(f"written to {options.out}/cpu.json, cpu.md and plots")
    return int(failed)
