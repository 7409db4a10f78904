"""``python -m bench fuzz``: a small number of calls, and what it must notice."""

from __future__ import annotations

import pytest
import torch

from bench.fuzz import CALLS, Call, check, fuzz
from fastcam import functional as F
from fastcam import reference


@pytest.mark.parametrize("kind", CALLS)
def test_calls_are_right_or_name_an_argument(kind: str) -> None:
    (came,) = fuzz(300, kinds=[kind]).values()
    assert came.total() >= 300
    assert came["an error"] and came["a result"] + came["compared"]
    assert came["compared"] or not kind.startswith("functional")


def _wrong_value(mask: torch.Tensor) -> torch.Tensor:
    return mask + 1e-3


def _wrong_shape(mask: torch.Tensor) -> torch.Tensor:
    return mask[:1]


def _crash(mask: torch.Tensor) -> torch.Tensor:
    raise IndexError("of what?")


def _says_nothing(mask: torch.Tensor) -> torch.Tensor:
    raise ValueError("no")


@pytest.mark.parametrize("function", [_wrong_value, _wrong_shape, _crash, _says_nothing])
def test_what_is_wrong_is_noticed(function: object) -> None:
    mask = torch.full((2, 3), 0.25, dtype=torch.float64)
    good = Call(F.tone_curve, [mask], {}, reference.tone_curve, exact=True)
    assert check(good) == "compared"
    with pytest.raises((AssertionError, IndexError)):
        check(Call(function, [mask], {}, reference.tone_curve, exact=True))  # type: ignore[arg-type]
