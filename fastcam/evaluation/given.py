"""What an evaluation is given: a device and checkpoints by name; scores and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one, else the CPU; any other name is torch's own."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not available: this torch sees no GPU")
    return device


def name_checkpoints(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Paths by their folder's name, or by all of the path where folders repeat."""
    folders = [Path(p).resolve().parent.name for p in paths]
    unique = len(set(folders)) == len(folders)
    return {(f if unique else str(p)): p for f, p in zip(folders, paths, strict=True)}


def judged_right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where a logit is on the right side (above 0: present), else 0: float32.

    Args:
        logits, labels: of shapes that broadcast; a label above 0.5 means present.
    """
    return ((logits > 0) == (labels > 0.5)).float()
