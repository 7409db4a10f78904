"""Regions as grids [N, H, W], which ``fastcam.functional.cam_iou_loss`` takes, without torch.

Of a face: landmarks -> rectangles -> grids, in numpy and C++. These start from dlib's 68 landmarks
in pixels: found once and kept in a :class:`LandmarkTable`, made from CelebA's five points, or the
template's. A :class:`Region` turns them into grids.

Of anything else: :func:`from_masks` takes masks of any kind; a :class:`MaskRegion` is one of a data
set's, by name.
"""

from __future__ import annotations

from fastcam.regions.detect import ImageReader, detect_landmarks
from fastcam.regions.masks import MaskRegion, from_masks
from fastcam.regions.region import FACE_PARTS, REGION_NAMES, Region, grids, rectangles
from fastcam.regions.table import LandmarkSource, LandmarkTable
from fastcam.regions.template import (
    MIRROR_68,
    TEMPLATE_SIZE,
    five_points,
    flip_landmarks,
    landmarks_from_five_points,
    template_landmarks,
)

__all__ = [
    "FACE_PARTS",
    "MIRROR_68",
    "REGION_NAMES",
    "TEMPLATE_SIZE",
    "ImageReader",
    "LandmarkSource",
    "LandmarkTable",
    "MaskRegion",
    "Region",
    "detect_landmarks",
    "five_points",
    "flip_landmarks",
    "from_masks",
    "grids",
    "landmarks_from_five_points",
    "rectangles",
    "template_landmarks",
]
