"""Nothing is timed that does not compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
            try:
                torch.testing.assert_close(
                    got, wanted, rtol=loose, atol=loose * wanted.abs().max().item()
                )
            except AssertionError as error:
                raise AssertionError(f"{what}, {name}: {error}") from None
