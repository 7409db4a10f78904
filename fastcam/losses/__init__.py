"""The losses of a training loop: of the Grad-CAM, of the attention network, and their balance."""

from __future__ import annotations

from fastcam.losses import cam as _cam
from fastcam.losses.attention import AttentionLoss
from fastcam.losses.balance import Balance
from fastcam.losses.cam import *  # noqa: F403
from fastcam.losses.contrast import ContrastCamLoss
from fastcam.losses.input_gradient import InputGradientLoss

__all__ = ["AttentionLoss", "Balance", "ContrastCamLoss", "InputGradientLoss"]
__all__ += _cam.__all__
