"""The defaults of the IoU loss stand in several signatures, which readers look at: they agree."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import fastcam
import fastcam.functional as F
from fastcam import reference
from fastcam.ops.cam_loss import LOSSES
from fastcam.training import GuidanceConfig


@pytest.mark.parametrize(
    "function", [F.cam_iou_loss, reference.cam_loss, fastcam.IoUCamLoss, GuidanceConfig]
)
def test_every_signature_has_the_defaults_of_the_iou_loss(function: Callable[..., Any]) -> None:
    own = inspect.signature(function).parameters
    wanted = {name: value for name, value in LOSSES["iou"][1].items() if name != "eps"}
    if "eps" in own and own["eps"].default is not None:  # of any loss: its own default
        wanted["eps"] = LOSSES["iou"][1]["eps"]
    assert {name: own[name].default for name in wanted} == wanted
