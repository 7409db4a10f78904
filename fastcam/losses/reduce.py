"""How the losses that are plain PyTorch come from pairs to one number."""

from __future__ import annotations

from torch import Tensor

from fastcam.ops.cam_loss import Reduction

__all__ = ["Reduction", "reduced"]


def reduced(loss: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
    """Of losses [N,T] that are 0 where not ``valid`` (bool [N,T]): no valid pair has mean 0."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / valid.sum().clamp(min=1)
