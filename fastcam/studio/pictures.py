"""Images and maps as PNG, for pages."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from fastcam.report import ExplainedFace

#: Side of the pictures in pixels.
SIDE = 224
What = Literal["image", "map", "both"]


def picture(face: ExplainedFace, what: What = "both", colours: str = "turbo") -> bytes:
    """An explained image as PNG.

    Args:
        face: with one map.
        what: the image, the map alone, or the map over the image, as in the report's figures.
        colours: a colour map of matplotlib's.
    """
    if what == "image":
        return plain(face.image)
    (cam,) = face.cams.values()
    return mapped(face.image, cam, colours) if what == "both" else png(colored(cam, colours))


def plain(image: NDArray[np.uint8]) -> bytes:
    """An image of any size, as PNG."""
    return png(_resized(image))


def mapped(image: NDArray[np.uint8], cam: NDArray[np.floating], colours: str) -> bytes:
    """A map over an image of any size, as PNG."""
    return png(overlay(_resized(image), cam, colours))


def _resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def colored(cam: NDArray[np.floating], colours: str) -> NDArray[np.uint8]:
    """A map in colours, as fine as the picture: uint8 [S, S, 3]."""
    return (255 * colormaps[colours](_fine(cam))[..., :3]).astype(np.uint8)


def overlay(image: NDArray[np.uint8], cam: NDArray[np.floating], colours: str) -> NDArray[np.uint8]:
    """The map over the image, the more opaque the higher it is: uint8 [S, S, 3]."""
    alpha = (0.15 + 0.45 * _fine(cam))[..., None]
    mixed = (1 - alpha) * image + alpha * colored(cam, colours)
    return mixed.round().astype(np.uint8)


def _fine(cam: NDArray[np.floating]) -> NDArray[np.float32]:
    small = Image.fromarray(np.asarray(cam, np.float32))
    fine = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(fine), 0, 1)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
