"""``python -m bench fuzz``: a small number of calls, and what it must notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastcam
from bench import fuzz as bench_fuzz
from bench.fuzz import CALLS, Call, check, fuzz
from fastcam import functional as F
from fastcam import reference, regions
from fastcam.cam.targets import resolve
from fastcam.losses.attention import AttentionOutputs


@pytest.mark.parametrize("kind", CALLS)
def test_calls_are_right_or_name_an_argument(kind: str) -> None:
    (came,) = fuzz(300, kinds=[kind]).values()
    assert came.total() >= 300
    assert came["an error"] and came["a result"] + came["compared"]
    assert came["compared"] or not kind.startswith("functional")


def test_a_run_that_is_ended_keeps_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Call] = []

    def ended(call: Call) -> str:
        done.append(call)
        if len(done) == 250:
            raise KeyboardInterrupt
        return "a result"

    monkeypatch.setattr(bench_fuzz, "check", ended)
    monkeypatch.setattr(bench_fuzz, "EVERY", 0.0)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(KeyboardInterrupt):
            bench_fuzz.main(["--calls", "1200", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    kept = json.loads((tmp_path / "fuzz.json").read_text())
    assert [came["a result"] for came in kept["results"]] == [200, 49]
    assert "unfinished" in kept["machine"] and kept["machine"]["calls"] == 249


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


_LOGITS = torch.zeros(2, 3)
_MASKS = np.zeros((1, 2, 4, 4), np.uint8)
_MASK = torch.zeros(1, 2, 4, 4)
_OUTPUTS = AttentionOutputs(_LOGITS, None, _MASK, _LOGITS)


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (fastcam.EnergyCamLoss().valid_pairs, ["text"], "regions"),
        (fastcam.EnergyCamLoss().valid_pairs, [torch.ones(2, 4, 4), torch.ones(3, 3)],
         "cell_weights"),
        (fastcam.AttentionLoss(), [None, _LOGITS], "outputs"),
        (fastcam.AttentionLoss(), [AttentionOutputs(_LOGITS, None, None, None), _LOGITS], "l1"),
        (fastcam.AttentionLoss(), [AttentionOutputs(_LOGITS, None, "a", _LOGITS), _LOGITS],
         "reconstruction"),
        (fastcam.grad_cam_maps, [_LOGITS, _LOGITS, None], "create_graph"),
        (fastcam.Balance(), [torch.zeros(()), -1.5], "guidance"),
        (regions.MaskRegion(("a",), (2,)).grid, [_MASKS, (4, 4), (2, 2)], "channels"),
        (regions.MaskRegion((), ()).grid, [_MASKS, (4, 4), (2, 2)], "channels"),
        (regions.MaskRegion(("a",), (0,)).grid, [_MASKS, (4, 4), (3,)], "grid_size"),
        (regions.MaskRegion(("a",), (0,)).grid, [_MASKS / 255, (4, 4), (2, 2)], "masks"),
        (regions.MaskRegion.parse, ["wing", None], "known"),
        (regions.Region, [None], "names"),
        (regions.Region, [[3]], "names"),
        (regions.from_masks, [_MASK.to_sparse(), 2], "masks"),
        (regions.from_masks, [_MASK * 1j, 2], "masks"),
        (fastcam.AttentionLoss(), [_OUTPUTS, _LOGITS.to("meta")], "labels"),
        (fastcam.AttentionLoss(), [_OUTPUTS, _LOGITS.to_sparse()], "labels"),
        (fastcam.AttentionLoss(), [_OUTPUTS, _LOGITS * 1j], "labels"),
        (fastcam.AttentionLoss(), [_OUTPUTS, _LOGITS, _MASK.to("meta")], "images"),
        (fastcam.AttentionLoss(), [_OUTPUTS, _LOGITS, _MASK.to_sparse()], "images"),
        (resolve, [torch.eye(3).long().to_sparse(), _LOGITS], "targets"),
        (resolve, [torch.zeros((), dtype=torch.int64, device="meta"), _LOGITS], "targets"),
        (regions.LandmarkTable, [torch.eye(3).to_sparse(), _MASKS, _MASKS, _MASKS], "name"),
    ],
)  # fmt: skip
def test_errors_that_named_no_argument_name_it(function: Any, args: list[Any], name: str) -> None:
    """Each of these once was another error, as the calls above found."""
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        function(*args, **({"create_graph": np.zeros(2)} if name == "create_graph" else {}))
