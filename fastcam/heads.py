"""Public home of :func:`class_activation_maps`; how it works is in :mod:`fastcam.cam.heads`."""

from __future__ import annotations

from fastcam.cam.heads import class_activation_maps

__all__ = ["class_activation_maps"]
