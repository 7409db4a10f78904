"""A tensor's counter of in-place changes."""

from __future__ import annotations

import torch
from torch import Tensor


def version_of(tensor: Tensor) -> int:
    """How often it was changed in place; −1 of an inference tensor, which does not count."""
    return -1 if tensor.is_inference() else tensor._version


def versioned(tensor: Tensor) -> Tensor:
    """The tensor, or of an inference tensor a copy, whose changes count in inference mode too."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False), torch.no_grad():
        return tensor.clone()
