"""The tone curve and the attend ops for ``bench.gpu``: cases, least bytes, calls.

No candidate multiplies in TF32, as the plain path's convolution would by default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.agreement import close
from fastcam import functional, reference

OPS = (
    "tone_curve forward",
    "tone_curve backward",
    "attend forward",
    "attend backward",
    "attend pooled forward",
    "attend pooled backward",
    "attend_conv1x1 forward",
    "attend_conv1x1 backward",
)
CURVE = (4.0, 0.2)  # n, beta

Call = Callable[[], Any]
Functions = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class AttendCase:
    """The attention network's size unless told otherwise."""

    batch: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    attributes: int = 40
    channels: int = 128
    side: int = 14

    @property
    def name(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"attention N={self.batch} K={self.attributes} {kind}"

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features, logits; weight and bias of a convolution that makes such logits."""
        rng = torch.Generator().manual_seed(0)
        k, c = self.attributes, self.channels

        def some(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=rng)

        made = (
            some(self.batch, c, self.side, self.side),
            some(self.batch, k, c, self.side, self.side),
            some(k * c, c) / c**0.5,
            some(k * c),
        )
        return tuple(t.to(self.device, self.dtype).requires_grad_() for t in made)  # type: ignore


def cases(device: str) -> tuple[AttendCase, ...]:
    return tuple(
        AttendCase(batch, dtype, device)
        for dtype in (torch.float32, torch.bfloat16)
        for batch in (8, 32, 128)
    )


def least_bytes(case: AttendCase) -> dict[str, int]:
    """Inputs, outputs, and for backward the outputs' gradients and the inputs'."""
    element = torch.empty((), dtype=case.dtype).element_size()
    rows = case.batch * case.attributes
    f = case.batch * case.channels * case.side**2 * element
    logits = f * case.attributes
    pooled = rows * case.channels * element
    l1 = rows * (8 if case.dtype == torch.float64 else 4)
    weight = case.attributes * case.channels * (case.channels + 1) * element  # and bias
    each = (
        2 * logits,
        3 * logits,
        f + 2 * logits + l1,
        2 * f + 3 * logits + l1,
        f + logits + pooled + l1,
        2 * (f + logits) + pooled + l1,
        f + weight + pooled + l1,
        2 * (f + weight) + pooled + l1,
    )
    return dict(zip(OPS, each, strict=True))


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """The functions compute in float32; networks beside them keep torch's defaults."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def candidates(compiled: bool) -> dict[str, Functions]:
    """Name to the three functions, if asked for also of the plain path compiled."""
    names = ("tone_curve", "attend", "attend_conv1x1")
    found: dict[str, Functions] = {
        "fused": {name: getattr(functional, name) for name in names},
        "eager": {name: getattr(reference, name) for name in names},
    }
    if compiled:
        found["compiled"] = {
            name: torch.compile(getattr(reference, name), dynamic=False) for name in names
        }
    return found


def calls(functions: dict[str, Functions], case: AttendCase) -> dict[str, dict[str, Call]]:
    """Op to candidate to call. Raises if a candidate's value is not the reference's."""
    features, logits, weight, bias = case.inputs()
    mask = torch.sigmoid(logits.detach()).requires_grad_()
    found: dict[str, dict[str, Call]] = {op: {} for op in OPS}
    values: dict[str, list[Any]] = {}
    for name, by_name in functions.items():
        attend, both = by_name["attend"], (features, logits)
        conv_leaves = (features, weight, bias)
        steps: tuple[tuple[Call, tuple[Tensor, ...]], ...] = (
            (partial(by_name["tone_curve"], mask, *CURVE), (mask,)),
            (partial(attend, *both, *CURVE), both),
            (partial(attend, *both, *CURVE, pool=True), both),
            (partial(by_name["attend_conv1x1"], *conv_leaves, *CURVE), conv_leaves),
        )
        values[name] = []
        for index, (forward, leaves) in enumerate(steps):
            value = forward()
            outputs = value if isinstance(value, tuple) else (value,)
            gradients = [torch.ones_like(output) for output in outputs]
            found[OPS[2 * index]][name] = forward
            found[OPS[2 * index + 1]][name] = partial(
                torch.autograd.grad, outputs, leaves, gradients, retain_graph=True
            )
            values[name].append(value)
    for name, made in values.items():  # nothing is timed that is not right
        for index, (value, wanted) in enumerate(zip(made, values["eager"], strict=True)):
            loose = 2e-3 if case.dtype.itemsize > 2 else 6e-2
            close(f"{case.name}, {OPS[2 * index]}, {name}", value, wanted, loose)
    return found
