"""A tensor's counter of in-place changes."""

from __future__ import annotations

from torch import Tensor


def version_of(tensor: Tensor) -> int:
    """How often it was changed in place; −1 of an inference tensor, which does not count."""
    return -1 if tensor.is_inference() else tensor._version
