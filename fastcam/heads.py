"""The former home and name of :func:`fastcam.grad_cam_maps`."""

from __future__ import annotations

from fastcam.cam.maps import grad_cam_maps as class_activation_maps

__all__ = ["class_activation_maps"]
