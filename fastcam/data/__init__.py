"""Faces on disk in CelebA's layout: readers, and transforms that carry landmarks.

Names are imported on first use, so that reading image bytes (:class:`ImageSource`) does not need
torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.lazy import attach

if TYPE_CHECKING:
    from fastcam.data.batches import Collate as Collate
    from fastcam.data.celeba import CelebA as CelebA
    from fastcam.data.celeba import Sample as Sample
    from fastcam.data.celeba import Subsets as Subsets
    from fastcam.data.hiding import hide as hide
    from fastcam.data.prepared import PreparedFaces as PreparedFaces
    from fastcam.data.source import ImageSource as ImageSource
    from fastcam.data.tables import read_attributes as read_attributes
    from fastcam.data.tables import read_five_points as read_five_points
    from fastcam.data.tables import read_partition as read_partition
    from fastcam.data.transforms import FaceFlip as FaceFlip
    from fastcam.data.transforms import FitSquare as FitSquare
    from fastcam.data.transforms import RegionCutout as RegionCutout
    from fastcam.data.transforms import augmentation as augmentation

_HOMES = {
    "CelebA": "celeba",
    "Collate": "batches",
    "FaceFlip": "transforms",
    "FitSquare": "transforms",
    "ImageSource": "source",
    "PreparedFaces": "prepared",
    "RegionCutout": "transforms",
    "Sample": "celeba",
    "Subsets": "celeba",
    "augmentation": "transforms",
    "hide": "hiding",
    "read_attributes": "tables",
    "read_five_points": "tables",
    "read_partition": "tables",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = attach(
    __name__,
    _HOMES,
    needs={m: ["torchvision"] for m in ("celeba", "hiding", "prepared", "transforms")},
)
