"""Image files as the picture a person sees: the one decoder of training, landmarks and figures.

Needs Pillow and numpy only, so that the search for landmarks does without torchvision.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from fastcam._util.names import printable

_ORIENTATION = 0x0112  # EXIF: how the stored picture has to be turned to stand upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_SAME_COLORS = 2  # grey levels by which a profile may differ from sRGB and be taken for it


def decode_pixels(data: bytes, name: str = "image") -> NDArray[np.uint8]:
    """Decode any image file that Pillow reads to the picture that a viewer shows.

    - It is turned upright as its EXIF (or XMP) orientation says.
    - Transparent parts lie over white; palettes, CMYK, YCbCr and LAB become RGB. Colors with an
      embedded ICC profile are converted to sRGB; a damaged profile is ignored, as viewers do.
    - 16-bit samples are scaled to 8 bits, black to black and white to white. 32-bit integers and
      floats have no agreed white. It is the least of 255, 65535 and 2³²−1 (floats: 1 before these)
      that the largest value does not exceed; floats may overshoot it, up to double. Values outside
      are clipped, NaN is black.
    - Of several frames or pages the first is taken.

    Args:
        data: the file's bytes.
        name: names the image in errors.

    Returns:
        uint8 [H, W, 3], RGB, writable.

    Raises:
        ValueError: it cannot be decoded (empty, no image, cut short, too large); the message holds
            ``name``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            _clear_color_in_8_bits(image)
            image.load()
            turn = turn_of(image)
            picture = _rgb(image)
            return np.array(picture if turn is None else picture.transpose(turn))
    except Exception as error:  # on damaged files Pillow's readers raise whatever they trip over
        raise ValueError(f"cannot decode {printable(name)}: {_reason(data, error)}") from None


def image_size(data: bytes, name: str = "image") -> tuple[int, int]:
    """Width and height of what :func:`decode_pixels` gives, mostly from the file's header alone.

    Raises:
        ValueError: the bytes are no image; the message holds ``name``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if image.format == "TIFF":  # Pillow turns these by itself
                return width, height
            if image.format == "PNG" and b"eXIf" not in data:
                image.info.setdefault("exif", b"")  # else Pillow decodes all to look for it
            if _orientation(image) in _QUARTER_TURNS:
                width, height = height, width
            return width, height
    except Exception as error:  # as above
        raise ValueError(f"cannot decode {printable(name)}: {_reason(data, error)}") from None


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return (
            f"it is damaged, or no image of a kind that Pillow reads; it begins with {data[:16]!r}"
        )
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        said = str(error).partition(",")[0]  # "Image size (… pixels) exceeds limit of … pixels"
        return f"{said}; if the file is what it should be, raise PIL.Image.MAX_IMAGE_PIXELS"
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    return f"it is damaged or cut short ({error or type(error).__name__})"


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How a picture has to be turned to stand upright, once it is loaded; None where it does."""
    return _TURNS.get(_orientation(image))


def _orientation(image: Image.Image) -> Any:
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return 1  # the usual case, without looking further
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: a viewer shows the picture as it is stored
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "RGB" and not profile and "transparency" not in image.info:
        return image
    image = _flat(_eight_bits(image))
    if image.mode == "LAB":
        transform = _lab_to_srgb()
    else:
        if image.mode not in _PROFILE_SPACES:
            image = image.convert("L" if image.mode == "1" else "RGB")
        transform = _to_srgb(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is None in place only
    return converted


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as L, or LA if a grey value stands for transparent."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        white = float(2 ** _first(tags.get(_BITS_PER_SAMPLE, 16)) - 1)
    elif image.format in ("PNG", "PPM"):  # 16 bits that Pillow keeps in 32
        white = 65535.0
    else:
        if image.mode == "I" and _first(tags.get(_SAMPLE_FORMAT, 2)) == 1:
            values = values.view(np.uint32)
        white = _white(values, image.mode == "F")
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=white, neginf=0.0)
    if _first(tags.get(_PHOTOMETRIC, 1)) == 0:  # white is zero: Pillow inverts up to 8 bits only
        grey = white - grey
    levels = (grey * (255.0 / white)).clip(0, 255).round().astype(np.uint8)
    reduced = Image.fromarray(levels)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        reduced.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return reduced


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _white(values: NDArray[Any], floats: bool) -> float:
    """The value that is white, where the file format leaves it open."""
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 0.0
    overshoot = 2.0 if floats else 1.0  # resampling and HDR exceed white somewhat
    whites = ((1.0,) if floats else ()) + (255.0, 65535.0, 4294967295.0)
    return next((white for white in whites if largest <= overshoot * white), largest)


def _flat(image: Image.Image) -> Image.Image:
    """Over white, if any of it is transparent."""
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if (
        image.mode not in ("LA", "La", "PA", "RGBA", "RGBa")
        and palette != "RGBA"
        and "transparency" not in image.info
    ):
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode[:-1] + "A")
    clear = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, clear).convert("L" if grey else "RGB")


def _clear_color_in_8_bits(image: ImageFile.ImageFile) -> None:
    """Scale the color that a PNG without alpha calls transparent to the depth Pillow decodes to.

    Pillow hands it on in the file's own depth, and would find it nowhere in the picture.
    """
    clear = image.info.get("transparency")
    if image.format != "PNG" or clear is None or not image.tile:
        return
    raw = image.tile[0][3]  # the depth in the file; unknown once the pixels are loaded
    if raw in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if raw == "L;2" else 17)
    elif raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


@functools.lru_cache(maxsize=16)  # a data set has one profile, or a few cameras'
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The transform of an embedded profile, or None where there is nothing to convert."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        probe = Image.fromarray(cube).convert(mode)
        converted: Any = ImageCms.applyTransform(probe, transform)
        change = np.asarray(converted, int) - np.asarray(probe.convert("RGB"), int)
        return None if np.abs(change).max() <= _SAME_COLORS else transform
    except (ImportError, OSError, ValueError, TypeError, ImageCms.PyCMSError):  # or no lcms
        return None


@functools.lru_cache(maxsize=1)
def _lab_to_srgb() -> Any:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
