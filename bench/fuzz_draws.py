"""What ``bench.fuzz`` draws of: shapes, tensors, things of another kind, and calls."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SPECIAL = (math.nan, math.inf, -math.inf, 5e-324, 1e-310, 1e38, -0.0, 3e4)


@dataclass(frozen=True)
class Within:
    """An argument that a call's surroundings give, by its name there."""

    name: str


@dataclass
class Call:
    """A call, and what is known of it.

    function: what is called, with ``args`` and ``options``. twin: what gives the same in plain
    PyTorch; None where there is none. exact: whether the numbers are such that both must agree.
    leaves: where their gradients must, too; close: how closely, relatively. around: what is entered
    for the time of the call, and gives the arguments that are :class:`Within` it. names: what an
    error may name besides the function's arguments.
    """

    function: Callable[..., Any]
    args: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    twin: Callable[..., Any] | None = None
    exact: bool = False
    leaves: Sequence[Tensor] = ()
    around: Callable[[], contextlib.AbstractContextManager[dict[str, Any]]] = lambda: (
        contextlib.nullcontext({})
    )
    names: Sequence[str] = ()
    close: float = 1e-7


SIZES = st.integers(0, 5) | st.integers(1, 4)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtype: torch.dtype, plain: bool) -> Tensor:
    """Values in [0, 1] and, unless ``plain``, around 0 and special ones; in one of many strides."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    values = torch.rand(shape, generator=rng, dtype=torch.float64)
    if not plain:
        values = draw(st.sampled_from([1.0, -2.0, 1e-3, 1e4])) * (values - draw(st.floats(0, 1)))
        if values.numel() and draw(st.booleans()):
            for _ in range(draw(st.integers(1, 3))):
                place = draw(st.integers(0, values.numel() - 1))
                values.view(-1)[place] = draw(st.sampled_from(SPECIAL))
    values = values.to(dtype)
    layout = draw(st.integers(0, 5)) if values.dim() > 1 else 0
    if layout == 1:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == 2:
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == 3:  # every second row of a larger one
        return torch.stack([values, values], 1).flatten(0, 1)[::2]
    if layout == 4:  # one row for all
        return values[:1].expand_as(values) if len(values) else values
    return values


@st.composite
def junk(draw: Any) -> Any:
    """Something of another kind."""
    shape = draw(st.lists(st.integers(0, 3), max_size=6))
    return draw(
        st.sampled_from(
            [
                None, "text", 3, -1.5, math.nan, [], [1.0, 2.0], {}, object(), np.zeros((2, 2)),
                torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), torch.ones(2, 2) * 1j,
                torch.zeros(shape, device="meta"), torch.eye(3).to_sparse(), True, b"bytes",
            ]
        )
    )  # fmt: skip


#: What a tensor is made in its place: of its shape, and another kind.
OTHERS: tuple[Callable[[Tensor], Any], ...] = (
    lambda x: x.detach().to("meta"),
    lambda x: x.detach().to_sparse(),
    lambda x: x.detach().to(torch.complex64),
    lambda x: x.detach().nan_to_num().clamp(-9, 9).to(torch.int64),
    lambda x: x.detach().double().numpy(),
    lambda x: x.detach().double().tolist(),
)


@st.composite
def spoiled(draw: Any, call: Call) -> Call:
    """The call, now and then with an argument of another kind, or a tensor as another kind."""
    if draw(st.integers(0, 5)) == 0 and (call.args or call.options):
        place = draw(st.integers(0, len(call.args) + len(call.options) - 1))
        held: Any = call.args if place < len(call.args) else call.options
        at = place if held is call.args else sorted(held)[place - len(call.args)]
        same = isinstance(held[at], Tensor) and draw(st.booleans())
        held[at] = draw(st.sampled_from(OTHERS))(held[at]) if same else draw(junk())
        call.exact = False
    return call


def some(draw: Any, **choices: Any) -> dict[str, Any]:
    """Some of these options, with a value each."""
    return {k: draw(v) for k, v in choices.items() if draw(st.booleans())}
