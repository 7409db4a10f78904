"""Grad-CAM and the losses that direct it, as functions on tensors.

Each function is one fused pass over its inputs (CPU or CUDA) with an analytic backward; its twin in
:mod:`fastcam.reference` says in plain PyTorch what it computes. Symbols: N batch, T targets
supervised per image, C channels, H×W cells of the activations, H'×W' cells of the gradients.

docs/method.md has the mathematics, and the papers that it comes from.
"""

from __future__ import annotations

from fastcam.ops.attend import attend, attend_conv1x1, tone_curve
from fastcam.ops.cam_iou import cam_iou_loss, valid_targets
from fastcam.ops.grad_cam import grad_cam

__all__ = [
    "attend",
    "attend_conv1x1",
    "cam_iou_loss",
    "grad_cam",
    "tone_curve",
    "valid_targets",
]
