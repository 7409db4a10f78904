"""A tiny training run, and what is compared of two."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL
from torch import Tensor

from fastcam.models import load_checkpoint
from fastcam.training import TrainConfig, TrainResult
from fastcam.training.history import read_history


def run_config(data: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(data), model=MODEL, size=32, epochs=3, patience=0, batch_size=10, lr=0.05,
        clip=0.0, device="cpu", workers=1,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def weights_of(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).model.state_dict()


def same_weights(first: Path, second: Path) -> bool:
    one, two = weights_of(first), weights_of(second)
    return all(torch.equal(one[k], two[k]) for k in one)


def assert_same(got: TrainResult, wanted: TrainResult) -> None:
    """Two runs that are one up to rounding."""
    records, expected = read_history(got.history), read_history(wanted.history)
    assert len(records) == len(expected)
    for record, other in zip(records, expected, strict=True):
        assert record == pytest.approx(other, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(
        weights_of(got.checkpoint), weights_of(wanted.checkpoint), rtol=1e-4, atol=1e-6
    )
    assert (got.before or {}) == pytest.approx(wanted.before or {}, rel=1e-4)
    assert got.after == pytest.approx(wanted.after, rel=1e-4)
    assert got.biases == pytest.approx(wanted.biases, rel=1e-4, abs=1e-5)
    assert (got.epochs, got.landmark_sources) == (wanted.epochs, wanted.landmark_sources)


_STOPS = (
    "import os, signal, sys\n"
    "import tiny_faces\n"
    "from fastcam.training import TrainConfig, train\n"
    "from fastcam.training.task import AttributeTask\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also where it was ignored
    "step, out = AttributeTask.training_step, sys.argv[1]\n"
    "def stops(*a):\n"
    "    if os.path.exists(os.path.join(out, 'last.ckpt')):\n"
    "        print('saved', flush=True)\n"
    "        sys.stdin.read()\n"  # for ever: a signal ends it
    "    return step(*a)\n"
    "AttributeTask.training_step = stops\n"
)


def until_saved(code: str, out: Path) -> subprocess.Popen[str]:
    """A process that trains and stands still in the step after its first save."""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPS + code, str(out)],
        env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    while said.startswith("[Gloo]"):  # torch 2.10 tells of its connections
        said = process.stdout.readline()
    if said != "saved\n":
        raise AssertionError(f"{said}{process.communicate()}")
    return process
