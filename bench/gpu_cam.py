"""The loss of the map and Grad-CAM for ``bench.gpu``: cases, least bytes, calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.agreement import close
from bench.cases import NETWORKS, Case
from fastcam import functional, reference

FAMILIES = {"cam_iou": "cam_iou_loss", "grad_cam": "grad_cam"}  # and the functions
GATES = 4 * len(NETWORKS)  # this many of the cases come before all others
SHAPES = ((32, 1), (256, 1), (64, 4), (64, 16), (1, 1), (1024, 1))  # N, T; the gates' first
KINDS = ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))

Function = Callable[..., Tensor]
Call = Callable[[], Any]


def cases(device: str) -> tuple[Case, ...]:
    """The most important first."""
    return tuple(
        Case(network, batch, targets, dtype, channels_last, device)
        for dtype, channels_last in KINDS
        for batch, targets in SHAPES
        for network in NETWORKS
    )


def bound(case: Case) -> float:
    """The gate: how many times faster than ``torch.compile`` forward + backward have to be."""
    return 2.0 if case.batch <= 64 else 1.5


def least_bytes(family: str, case: Case) -> dict[str, int]:
    """Bytes that each op has to move at least.

    The loss reads A and D once (its forward makes all gradients) and writes dA once; Grad-CAM's
    backward reads A, since its upstream gradient is a map.
    """
    channels, (height, width) = NETWORKS[case.network][0], case.cells[0]
    pairs = case.batch * case.targets
    acc = 8 if case.dtype == torch.float64 else 4
    a, d = case.input_bytes
    cells, weights = pairs * height * width * acc, pairs * channels * acc
    each = {
        # S, grad_map, α, dD; loss, status. Then grad_map, α, dD twice; scale, status.
        "cam_iou": (
            a + d + 2 * cells + 2 * weights + pairs * (acc + 1),
            a + cells + 3 * weights + pairs * (acc + 1),
        ),
        # The map; its peak. Then the map and its gradient; its peak.
        "grad_cam": (
            a + d + cells + weights + pairs * acc,
            2 * a + 2 * cells + 2 * weights + pairs * acc,
        ),
    }
    return dict(zip((f"{family} forward", f"{family} backward"), each[family], strict=True))


def candidates(compiled: bool) -> dict[str, dict[str, Function]]:
    """Family to name to function."""
    found: dict[str, dict[str, Function]] = {}
    for family, name in FAMILIES.items():
        eager = getattr(reference, name)
        found[family] = {"fused": getattr(functional, name), "eager": eager}
        if compiled:
            found[family]["compiled"] = torch.compile(eager, dynamic=False)
    return found


def calls(family: str, functions: dict[str, Function], case: Case) -> dict[str, dict[str, Call]]:
    """Op to candidate to call. Raises if a candidate's value is not the reference's."""
    activations, gradients, regions = case.inputs()
    loss = family == "cam_iou"
    inputs = (activations, gradients, *((regions,) if loss else ()))
    upstream = None if loss else torch.rand(regions.shape, device=regions.device)
    forward = {name: partial(function, *inputs) for name, function in functions.items()}
    values = {name: step() for name, step in forward.items()}
    for name, value in values.items():  # nothing is timed that is not right
        close(f"{case.name}, {name}", value, values["eager"], 2e-3)
    backward: dict[str, Call] = {
        name: partial(torch.autograd.grad, value, inputs[:2], upstream, retain_graph=True)
        for name, value in values.items()
    }
    return {f"{family} forward": {**forward}, f"{family} backward": backward}
