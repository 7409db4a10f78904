"""``cam_iou_loss``, forward and backward, against eager, ``torch.compile`` and the byte limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.agreement import all_agree
from bench.cases import Case
from bench.memory import peak_bytes
from bench.streaming import Streaming
from bench.suite.conftest import SideBySide
from fastcam import functional, reference

TARGET = Case("alexnet", 256, pooled=False)
BATCHES = (1, 8, 64, 256, 1024)
FEW = (1, 32, 256)
CASES = (
    *(replace(TARGET, batch=batch) for batch in BATCHES),
    *(Case("alexnet", batch) for batch in BATCHES),
    *(Case("vgg16", batch) for batch in FEW),
    *(Case("resnet50", batch) for batch in FEW),
    *(Case("alexnet", batch, dtype=torch.bfloat16) for batch in (8, 256)),
    *(Case("alexnet", batch, channels_last=True) for batch in (8, 256)),
    Case("vgg16", 32, pooled=False),
    Case("alexnet", 64, targets=8),
)


# Blocks above 32 MB: glibc hands them back when they are freed, unless what ran before has left as
# much at the end of its heap. In a process of its own every run of a case sees fresh memory.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name.replace("=", ""),
            marks=[pytest.mark.own_process] if case.batch >= 256 else [],
        )
        for case in CASES
    ],
)
def test_cam_iou(case: Case, side_by_side: SideBySide) -> None:
    losses = {
        "fused": functional.cam_iou_loss,
        "eager": reference.cam_iou_loss,
        "compiled": torch.compile(reference.cam_iou_loss, dynamic=False),
    }
    steps = case.steps(losses)
    all_agree(case.name, steps, case.dtype)
    peaks = {name: peak_bytes(step) for name, step in steps.items()}
    activations, gradients = case.input_bytes
    limit = Streaming([activations, gradients], again=[0], writes=[activations])
    side_by_side(
        f"cam_iou {case.name}",
        {**steps, "byte limit": limit},
        seconds=4.0 if case == TARGET else 1.5,
        least=21 if case == TARGET else 7,
        family=case.family,
        batch=case.batch,
        peaks=peaks,
        bytes=limit.bytes,
    )
