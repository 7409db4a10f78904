"""Everything on the CPU, side by side: the ops, the training step and the peers' Grad-CAM.

Runs bench/suite with pytest and pytest-benchmark, then writes cpu.json, cpu.md and plots. Further
options go to pytest: ``-k "cam_iou and N256"``, ``-k "not step"``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.report import ROOT, machine
from bench.speed_report import missing_peers, ops_table, others_table, write_all
from bench.targets import targets_table
from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam._util.files import describe

SUITE = ROOT / "bench" / "suite"
RAW = ROOT / "runs" / "bench" / "pytest-benchmark"  # all samples, and the host's name


class _Chosen:
    """The ids of the cases, those that want a process of their own apart."""

    def __init__(self) -> None:
        self.together: list[str] = []
        self.alone: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            alone = item.get_closest_marker("own_process") is not None
            (self.alone if alone else self.together).append(item.nodeid)

    def parts(self) -> list[list[str]]:
        return [*([case] for case in self.alone), *([self.together] if self.together else [])]


def chosen(options: list[str]) -> _Chosen:
    """What pytest would run with these options."""
    cases, said = _Chosen(), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(
            [f"--rootdir={ROOT}", str(SUITE), "--collect-only", "-p", "no:cacheprovider", *options],
            plugins=[cases],
        )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(said.getvalue())
        return _Chosen()  # of a wrong -k pytest has named all cases
    return cases


def measured(parts: list[list[str]], options: list[str]) -> Iterator[tuple[list[Any], int]]:
    """Each part in a process of its own: its records, and its exit status."""
    total, number, began = sum(map(len, parts)), 0, time.time()
    for index, cases in enumerate(parts):
        with tempfile.TemporaryDirectory() as folder:
            records = Path(folder) / "records.json"
            arguments = [
                *cases,
                f"--rootdir={ROOT}",
                *("-q", "-s", "-p", "no:cacheprovider", "--benchmark-quiet", "-o", "timeout=0"),
                f"--benchmark-json={RAW / f'{index}.json'}",
                f"--progress={number}/{total}/{began}",
                *options,
            ]
            part = subprocess.Popen(
                [sys.executable, "-m", "bench.part", str(records), *arguments], cwd=ROOT
            )
            stopped = False
            try:
                status = part.wait()
            except KeyboardInterrupt:  # of the part, too: it writes what it has
                status, stopped = part.wait(), True
            yield json.loads(records.read_text()) if records.is_file() else [], status
            if stopped:
                raise KeyboardInterrupt
            number += len(cases)


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
    try:
        require("pytest_benchmark", extra="bench")
        with claim(RAW), claim(options.out):
            return _measure(options, further)
    except (OSError, ImportError) as error:
        print(f"bench cpu: {describe(error)}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace, further: list[str]) -> int:
    RAW.mkdir(parents=True, exist_ok=True)
    for old in RAW.glob("*.json"):
        old.unlink()
    torch.set_num_threads(options.threads)
    about = {**machine(), "load": round(os.getloadavg()[0], 2)}
    if about["load"] > 0.5:
        print(f"*** THIS MACHINE IS BUSY (load {about['load']}): ratios will be off ***")
    began = time.monotonic()
    cases = chosen(further)
    settings = [f"--threads={options.threads}", *(["--scale=0.1"] if options.quick else [])]
    records: list[Any] = []
    failed = 0
    try:
        for some, status in measured(cases.parts(), settings):
            records += some
            failed = failed or status
    except KeyboardInterrupt:
        failed = failed or 1
        print("\nbench cpu: stopped; what was measured until then is kept")
    if not records:
        print("bench cpu: nothing was measured")
        return failed or 1
    about["quick"] = options.quick or None
    about["minutes"] = round((time.monotonic() - began) / 60, 1)
    write_all(options.out, about, records)
    for text in (ops_table(records), others_table(records), targets_table(records)):
        print(f"\n{text}")
    for line in missing_peers(records):
        print(f"*** {line} ***")
    print(f"written to {options.out}/cpu.json, cpu.md and plots")
    return failed
