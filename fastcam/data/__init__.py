"""Faces on disk in CelebA's layout: readers, transforms that carry landmarks, a generator.

Names are imported on first use, so that reading image bytes (:class:`ImageSource`) or drawing
synthetic faces does not need torchvision.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ImageSource": "source",
    "CelebA": "celeba",
    "Sample": "celeba",
    "Subsets": "celeba",
    "PreparedFaces": "prepared",
    "Collate": "batches",
    "FaceFlip": "transforms",
    "FitSquare": "transforms",
    "augmentation": "transforms",
    "read_attributes": "tables",
    "read_five_points": "tables",
    "read_partition": "tables",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
