"""Nothing is timed that does not compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], tuple[Sequence[Tensor], Sequence[Tensor]]]  # forward and backward


def all_agree(what: str, steps: Mapping[str, Step], dtype: torch.dtype) -> None:
    """Values and gradients of every step are those of "eager"; ``AssertionError`` otherwise."""
    loose = 1e-4 if dtype.itemsize > 2 else 2e-2
    values, gradients = steps["eager"]()
    for name, step in steps.items():
        got_values, got_gradients = step()
        for got, wanted in zip((*got_values, *got_gradients), (*values, *gradients), strict=True):
            close(f"{what}, {name}", got, wanted, loose, scale=wanted.abs().max().item())


def close(what: str, got: Any, wanted: Any, loose: float, scale: float = 1.0) -> None:
    """``assert_close`` of tensors, or of sequences of them; its error says of ``what``."""
    said = partial("{}: {}".format, what)
    torch.testing.assert_close(got, wanted, rtol=loose, atol=loose * scale, msg=said)
