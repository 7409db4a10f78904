"""A model that is evaluated gets its modes and its device back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, TinyNet
from torch import nn

from fastcam._util.modules import evaluating
from fastcam.evaluation.explain import explain
from fastcam.models import Checkpoint
from fastcam.models.checkpoint import Preprocessing


def _mixed() -> nn.Module:
    """In train mode, its second part in eval mode."""
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    model[1].eval()
    return model


def _state(model: nn.Module) -> tuple[list[bool], set[torch.device]]:
    return [m.training for m in model.modules()], {p.device for p in model.parameters()}


def _fail_within(model: nn.Module, device: str | None, look: Callable[[], object]) -> None:
    with evaluating(model, device):
        look()
        raise KeyError


@pytest.mark.parametrize("device", [None, "cpu"])
def test_modes_come_back_after_an_exception(device: str | None) -> None:
    model = _mixed()
    before = _state(model)
    seen: list[bool] = []
    with pytest.raises(KeyError):
        _fail_within(model, device, lambda: seen.extend(m.training for m in model.modules()))
    assert not any(seen)
    assert _state(model) == before


def test_the_device_comes_back_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _mixed()
    moves: list[str] = []
    monkeypatch.setattr(nn.Sequential, "to", lambda self, device: moves.append(str(device)))
    with pytest.raises(KeyError):
        _fail_within(model, "meta", lambda: moves.append("here"))
    assert moves == ["meta", "here", "cpu"]
    with evaluating(nn.Dropout(), "meta"):  # without parameters: nothing to bring home
        pass


@pytest.mark.parametrize(
    ("home", "device", "there"),
    [("cpu", None, "cpu"), ("meta", None, "meta"), ("meta", "meta", "meta")],
)
def test_without_a_device_a_model_runs_where_it_is(home: str, device: Any, there: str) -> None:
    with evaluating(nn.Linear(1, 1, device=home), device) as found:
        assert found == torch.device(there)
    with evaluating(nn.Dropout()) as found:
        assert found == torch.device("cpu")


@pytest.mark.parametrize("attribute", [ATTRIBUTES[0], "Nose"])
def test_explaining_leaves_the_model_as_it_was(attribute: str) -> None:
    model = TinyNet(3).train()
    model.features.eval()
    before = _state(model)
    checkpoint = Checkpoint(model, MODEL, list(ATTRIBUTES), Preprocessing(32))
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    if attribute in ATTRIBUTES:
        face = explain({"one": checkpoint}, image, attribute)
        again = explain({"one": checkpoint}, image, attribute)
        np.testing.assert_array_equal(face.cams["one"], again.cams["one"])  # no dropout
    else:
        with pytest.raises(ValueError, match="unknown attribute"):
            explain({"one": checkpoint}, image, attribute)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="one: the scores of 1 of 1 images are not finite"):
        explain({"one": checkpoint}, image, ATTRIBUTES[0])
    assert _state(model) == before
