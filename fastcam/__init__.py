"""fastcam: direct what an image classifier looks at, with fused Grad-CAM losses for PyTorch.

``fastcam.functional`` holds the losses as functions, ``fastcam.IoUCamLoss`` and
``fastcam.ActivationTap`` are what a training loop uses, ``fastcam.reference`` is the same in plain
PyTorch. Importing fastcam needs torch and numpy only; regions, data, training, evaluation, plots
and the command line are extras that are imported on their own.
"""

from __future__ import annotations

__version__ = "0.1.0"

from fastcam import _interrupt

_interrupt.guard()  # before torch, whose import takes a second

from fastcam import functional, reference  # noqa: E402
from fastcam._ops import build_info  # noqa: E402
from fastcam.attention_loss import AttentionLoss  # noqa: E402
from fastcam.balance import Balance  # noqa: E402
from fastcam.losses import IoUCamLoss  # noqa: E402
from fastcam.tap import ActivationTap  # noqa: E402

__all__ = [
    "ActivationTap",
    "AttentionLoss",
    "Balance",
    "IoUCamLoss",
    "__version__",
    "build_info",
    "functional",
    "reference",
]
