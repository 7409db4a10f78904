"""Images with labels and regions on disk: faces in CelebA's layout, and folders with masks.

Names are imported on first use, so that reading image bytes (:class:`ImageSource`) does not need
torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcam._util.lazy import attach

if TYPE_CHECKING:
    from fastcam.data.augment import Augment as Augment
    from fastcam.data.batches import Collate as Collate
    from fastcam.data.celeba import CelebA as CelebA
    from fastcam.data.folder import DataFolder as DataFolder
    from fastcam.data.folder import FaceFolder as FaceFolder
    from fastcam.data.folder import MaskedFolder as MaskedFolder
    from fastcam.data.folder import open_folder as open_folder
    from fastcam.data.hiding import hide as hide
    from fastcam.data.labelled import Sample as Sample
    from fastcam.data.labelled import Subsets as Subsets
    from fastcam.data.layout import FolderLayout as FolderLayout
    from fastcam.data.prepared import PreparedFaces as PreparedFaces
    from fastcam.data.prepared_images import PreparedImages as PreparedImages
    from fastcam.data.source import ImageSource as ImageSource
    from fastcam.data.tables import read_attributes as read_attributes
    from fastcam.data.tables import read_five_points as read_five_points
    from fastcam.data.tables import read_partition as read_partition
    from fastcam.data.transforms import FaceFlip as FaceFlip
    from fastcam.data.transforms import FitSquare as FitSquare
    from fastcam.data.transforms import RegionCutout as RegionCutout

_HOMES = {
    "Augment": "augment",
    "CelebA": "celeba",
    "Collate": "batches",
    "DataFolder": "folder",
    "FaceFlip": "transforms",
    "FaceFolder": "folder",
    "FitSquare": "transforms",
    "ImageSource": "source",
    "FolderLayout": "layout",
    "MaskedFolder": "folder",
    "PreparedFaces": "prepared",
    "PreparedImages": "prepared_images",
    "RegionCutout": "transforms",
    "Sample": "labelled",
    "Subsets": "labelled",
    "hide": "hiding",
    "open_folder": "folder",
    "read_attributes": "tables",
    "read_five_points": "tables",
    "read_partition": "tables",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = attach(
    __name__,
    _HOMES,
    needs={
        m: ["torchvision"]
        for m in (
            "augment",
            "celeba",
            "folder",
            "hiding",
            "prepared",
            "prepared_images",
            "transforms",
        )
    },
)
