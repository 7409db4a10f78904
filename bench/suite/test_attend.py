"""``attend`` of the attention network's size, and several (n, β) in one call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.agreement import Step, all_agree
from bench.gpu_attend import AttendCase
from bench.memory import peak_bytes
from bench.suite.conftest import SideBySide
from fastcam import functional, reference

CURVE = (4.0, 0.0)  # n, beta
CURVES = ([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
CASES = {
    "attend pooled": (AttendCase(1), AttendCase(8), AttendCase(32), AttendCase(8, torch.bfloat16)),
    "attend": (AttendCase(8),),
    "attend_conv1x1": (AttendCase(8),),
}


def step(op: str, module: Any, case: AttendCase, compiled: bool = False) -> Step:
    """Forward and backward: both outputs; the gradient of every input."""
    features, logits, weight, bias = case.inputs()
    conv = op == "attend_conv1x1"
    leaves = (features, weight, bias) if conv else (features, logits)
    function = module.attend_conv1x1 if conv else partial(module.attend, pool=op != "attend")
    if compiled:
        function = torch.compile(function, dynamic=False)
    weights: list[Tensor] = []

    def run() -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        outputs = function(*leaves, *CURVE)
        if not weights:
            weights.extend(torch.linspace(0.5, 1.5, o.numel()).view_as(o).to(o) for o in outputs)
        gradients = torch.autograd.grad(outputs, leaves, weights)
        return [output.detach() for output in outputs], gradients

    return run


@pytest.mark.parametrize(
    ("op", "case"),
    [
        pytest.param(op, case, id=f"{op} {case.name}".replace("=", ""))
        for op, cases in CASES.items()
        for case in cases
    ],
)
def test_attend(op: str, case: AttendCase, side_by_side: SideBySide) -> None:
    steps = {
        "fused": step(op, functional, case),
        "eager": step(op, reference, case),
        "compiled": step(op, reference, case, compiled=True),
    }
    all_agree(f"{op} {case.name}", steps, case.dtype)
    peaks = {name: peak_bytes(run) for name, run in steps.items()}
    kind = str(case.dtype).removeprefix("torch.")
    side_by_side(
        f"{op} {case.name}",
        steps,
        seconds=6.0,
        least=5,
        family=f"{op} {kind}",
        batch=case.batch,
        peaks=peaks,
    )


@pytest.mark.parametrize("pool", [True, False], ids=("pooled", "cells"))
def test_curves(pool: bool, side_by_side: SideBySide) -> None:
    features, logits, *_ = (t.detach() for t in AttendCase(8).inputs())

    def one_call() -> Tensor:
        return functional.attend(features, logits, *CURVES, pool=pool)[0]

    def calls(module: Any) -> list[Tensor]:
        return [
            module.attend(features, logits, *curve, pool=pool)[0]
            for curve in zip(*CURVES, strict=True)
        ]

    for together, alone, plain in zip(one_call(), calls(functional), calls(reference), strict=True):
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(together, plain, rtol=1e-3, atol=1e-3)
    del together, alone, plain
    side_by_side(
        f"eight (n, beta) of attend {'pooled' if pool else ''}".rstrip(),
        {
            "one call": one_call,
            "eight calls": lambda: calls(functional),
            "eager": lambda: calls(reference),
        },
        seconds=4.0,
        least=5,
    )
