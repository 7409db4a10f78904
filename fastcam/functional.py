"""Grad-CAM and the losses that direct it, as functions on tensors.

Each function (but ``margins`` and ``valid_targets``, which are torch's operations) is a fused pass
over its inputs (CPU or CUDA) with an analytic backward; its twin in :mod:`fastcam.reference` says
in plain PyTorch what it computes, and runs in its place on other devices (XPU), which a warning
says once. Symbols: N batch, T targets supervised per image, C channels, H×W cells of the
activations, H'×W' cells of the gradients.

docs/method.md has the mathematics, and the papers that it comes from.
"""

from __future__ import annotations

from fastcam.ops import attend as _attend
from fastcam.ops import cam_loss as _cam_loss
from fastcam.ops import grad_cam as _grad_cam
from fastcam.ops import margins as _margins
from fastcam.ops.attend import *  # noqa: F403
from fastcam.ops.cam_loss import *  # noqa: F403
from fastcam.ops.grad_cam import *  # noqa: F403
from fastcam.ops.margins import *  # noqa: F403

__all__: list[str] = []
__all__ += _attend.__all__
__all__ += _cam_loss.__all__
__all__ += _grad_cam.__all__
__all__ += _margins.__all__
