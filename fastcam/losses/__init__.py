"""The losses of a training loop: of the Grad-CAM, of the attention network, and their balance."""

from __future__ import annotations

from fastcam.losses.attention import AttentionLoss
from fastcam.losses.balance import Balance
from fastcam.losses.cam import (
    CenterCamLoss,
    EnergyCamLoss,
    IoUCamLoss,
    L1CamLoss,
    OutsideCamLoss,
    PPCECamLoss,
)
from fastcam.losses.contrast import ContrastCamLoss
from fastcam.losses.input_gradient import InputGradientLoss

__all__ = [
    "AttentionLoss",
    "Balance",
    "CenterCamLoss",
    "ContrastCamLoss",
    "EnergyCamLoss",
    "InputGradientLoss",
    "IoUCamLoss",
    "L1CamLoss",
    "OutsideCamLoss",
    "PPCECamLoss",
]
