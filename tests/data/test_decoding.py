"""The one decoder: image files give the picture that a person sees, or a clear error."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="images are decoded with Pillow")
import PIL
from PIL import Image, ImageCms, features

from fastcam.data.decoding import decode_pixels, image_size

WIDTH, HEIGHT = 40, 48
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
COLOR = np.stack([_X * 6, _Y * 5, (_X + _Y) * 2], -1).astype(np.uint8)  # no symmetry
GREY = (_X * 3 + _Y * 2 + 10).astype(np.uint8)
ALPHA = (_X * 6).astype(np.uint8)
TURN = Image.Transpose


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, -1)


def over_white(color: np.ndarray) -> np.ndarray:
    share = ALPHA[..., None] / 255
    return np.round(color * share + 255 * (1 - share))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def check(data: bytes, expected: np.ndarray, tolerance: float = 1) -> np.ndarray:
    pixels = decode_pixels(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(float) - expected).max() <= tolerance
    assert image_size(data) == pixels.shape[1::-1]
    return pixels


def need(feature: str) -> None:
    if not features.check(feature):
        pytest.skip(f"this Pillow was built without {feature}")


# --- depths and modes -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM", "TGA"])
def test_color_grey_and_black_and_white(kind: str) -> None:
    check(encoded(Image.fromarray(GREY), kind), rgb(GREY), 0)
    if kind != "GIF":
        check(encoded(Image.fromarray(COLOR), kind), COLOR, 0)
    bits = (GREY > 90) * np.uint8(255)
    check(encoded(Image.fromarray(bits).convert("1"), kind), rgb(bits), 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_become_8(kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    check(encoded(Image.fromarray(deep), kind), rgb(GREY), 0)
    if kind != "PPM":
        turned = Image.frombytes("I;16B", (WIDTH, HEIGHT), deep.astype(">u2").tobytes())
        check(encoded(turned, kind), rgb(GREY), 0)


def test_16_bits_that_are_dark_stay_dark() -> None:
    check(encoded(Image.fromarray(GREY.astype(np.uint16)), "PNG"), np.zeros_like(COLOR), 1)


def tiff(values: np.ndarray, bits: int, photometric: int, form: int = 1) -> bytes:
    """A grey TIFF of one strip, which Pillow itself would not write so."""
    data = values.tobytes()
    tags = [
        (256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8),
        (277, 1), (278, HEIGHT), (279, len(data)), (339, form),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_odd_grey_depths_of_tiff() -> None:
    deep = GREY.astype(np.uint32)
    check(tiff((deep * 257).astype("<u2"), 16, 0), rgb(255 - GREY), 0)  # white is zero
    signed = deep.astype("<i2")
    signed[0] = -9
    check(tiff(signed, 16, 1, 2), rgb(np.where(signed < 0, 0, signed)), 0)
    check(tiff((deep * 16843009).astype("<u4"), 32, 1), rgb(GREY), 0)
    packed = np.left_shift(deep.reshape(-1, 2) * 4095 // 255, [12, 0]).sum(1).astype(">u4")
    twelve = packed.view(np.uint8).reshape(-1, 4)[:, 1:]
    check(tiff(twelve, 12, 1), rgb(GREY), 1)


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, 1.0), (257, 1.0), (1 << 23, (1 << 23) * 255 / (2**32 - 1))]
)
def test_32_bit_integers(scale: int, expected: float) -> None:
    data = encoded(Image.fromarray(GREY.astype(np.int32) * scale), "TIFF")
    check(data, np.round(rgb(GREY) * expected))


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 257.0])
def test_floats(scale: float) -> None:
    values = GREY.astype(np.float32) * np.float32(scale)
    expected = rgb(GREY)
    top = 255 * scale
    values[0, :6] = [np.nan, np.inf, -np.inf, 1.3 * top, -0.2 * top, top]
    expected[0, :6] = np.array([0, 255, 0, 255, 0, 255])[:, None]
    check(encoded(Image.fromarray(values), "TIFF"), expected)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes(kind: str) -> None:
    image = Image.fromarray(COLOR).quantize(64)
    check(encoded(image, kind), np.asarray(image.convert("RGB")), 0)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    image = Image.fromarray(COLOR).quantize(64)
    expected = np.array(image.convert("RGB"))
    expected[np.asarray(image) == 5] = 255
    check(encoded(image, kind, transparency=5), expected, 0)


def test_palette_entries_that_are_partly_transparent() -> None:
    image = Image.fromarray(COLOR).quantize(64)
    alpha = bytes(range(0, 256, 4))
    share = np.frombuffer(alpha, np.uint8)[np.asarray(image)][..., None] / 255
    expected = np.asarray(image.convert("RGB")) * share + 255 * (1 - share)
    check(encoded(image, "PNG", transparency=alpha), np.round(expected))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TGA", "WEBP"])
def test_alpha_lies_over_white(kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "WEBP":
        need("webp")
        options = {"lossless": True, "exact": True}
    alpha = Image.fromarray(ALPHA)
    for base, expected in ((COLOR, COLOR), (GREY, rgb(GREY))):
        image = Image.fromarray(base)
        image.putalpha(alpha)
        if kind != "WEBP" or image.mode == "RGBA":
            check(encoded(image, kind, **options), over_white(expected))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, color: int, samples: bytes, *more: bytes, size: Any = (WIDTH, HEIGHT)) -> bytes:
    """A PNG of rows without filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(samples))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_a_grey_that_png_calls_transparent(depth: int) -> None:
    top = 2**depth - 1
    values = np.round(GREY / 255 * top).astype(int)
    key = int(values[20, 20])
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    expected = rgb(np.where(values == key, 255, np.round(values / top * 255)))
    check(png(depth, 0, data, chunk(b"tRNS", struct.pack(">H", key))), expected, 0)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_color_that_png_calls_transparent(depth: int) -> None:
    values = COLOR.astype(np.uint16) * (257 if depth == 16 else 1)
    samples = values.astype(">u2" if depth == 16 else np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in samples)
    key = struct.pack(">HHH", *(int(v) for v in values[20, 20]))
    expected = COLOR.copy()
    expected[20, 20] = 255
    check(png(depth, 2, data, chunk(b"tRNS", key)), expected, 0)


def test_print_and_video_colors() -> None:
    cmyk = Image.fromarray(COLOR).convert("CMYK")
    check(encoded(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB")), 0)
    check(encoded(cmyk, "JPEG", quality=100), COLOR, 12)  # stored inverted, as Adobe does
    ycbcr = Image.fromarray(COLOR).convert("YCbCr")
    check(encoded(ycbcr, "JPEG", quality=100, subsampling=0), COLOR, 6)
    if int(PIL.__version__.split(".")[0]) >= 13:  # older ones cannot read what they write
        check(encoded(ycbcr, "TIFF"), COLOR, 4)


def test_lab() -> None:
    need("littlecms2")
    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    lab: Any = ImageCms.profileToProfile(Image.fromarray(COLOR), *profiles, outputMode="LAB")
    pixels = decode_pixels(encoded(lab, "TIFF"))
    assert np.abs(pixels.astype(float) - COLOR).mean() < 2  # 8 bits of a* and b* are coarse


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_the_first_of_several_frames(kind: str) -> None:
    image = Image.fromarray(GREY)
    data = encoded(image, kind, save_all=True, append_images=[image.rotate(180)])
    check(data, rgb(GREY), 0)


# --- orientation ----------------------------------------------------------------------------------


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


STORED = {  # how a camera stores what is to be shown upright
    1: None, 2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE, 6: TURN.ROTATE_90, 7: TURN.TRANSVERSE, 8: TURN.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
def test_photos_come_upright(kind: str, orientation: int) -> None:
    if kind in ("WEBP", "AVIF"):
        need(kind.lower())
    turn = STORED[orientation]
    image = Image.fromarray(COLOR)
    data = encoded(image if turn is None else image.transpose(turn), kind, exif=exif(orientation))
    pixels = check(data, COLOR, 60)
    assert np.abs(pixels.astype(float) - COLOR).mean() < 5


def test_orientation_holds_for_other_modes_and_in_xmp() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257).transpose(TURN.ROTATE_90)
    check(encoded(deep, "PNG", exif=exif(6)), rgb(GREY), 0)
    image = Image.fromarray(COLOR)
    image.putalpha(Image.fromarray(ALPHA))
    check(encoded(image.transpose(TURN.ROTATE_90), "PNG", exif=exif(6)), over_white(COLOR))
    cmyk = Image.fromarray(COLOR).convert("CMYK").transpose(TURN.ROTATE_90)
    check(encoded(cmyk, "JPEG", quality=100, exif=exif(6)), COLOR, 12)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    turned = Image.fromarray(COLOR).transpose(TURN.ROTATE_270)
    check(encoded(turned, "JPEG", quality=100, subsampling=0, xmp=xmp), COLOR, 12)


def test_exif_that_follows_the_pixels_of_a_png() -> None:
    stored = np.rot90(COLOR)
    data = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(stored))
    whole = png(8, 2, data, size=(HEIGHT, WIDTH))
    late = whole[:-12] + chunk(b"eXIf", exif(6).tobytes()[6:]) + whole[-12:]
    check(late, COLOR, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "damage", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"", b"Exif"]
)
def test_damaged_exif_does_not_matter(damage: bytes) -> None:
    image = Image.fromarray(COLOR)
    check(encoded(image, "JPEG", quality=100, subsampling=0, exif=damage), COLOR, 6)
    check(encoded(image, "JPEG", quality=100, subsampling=0, exif=exif(99)), COLOR, 6)


# --- color profiles -------------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {}
    for i in range(struct.unpack(">I", data[128:132])[0]):
        entry = 132 + 12 * i
        at[bytes(data[entry : entry + 4])] = entry
    red, blue = at[b"rXYZ"] + 4, at[b"bXYZ"] + 4
    data[red : red + 8], data[blue : blue + 8] = data[blue : blue + 8], data[red : red + 8]
    return bytes(data)


def test_color_profiles_become_srgb() -> None:
    need("littlecms2")
    image = Image.fromarray(COLOR)
    check(encoded(image, "PNG", icc_profile=swapped_profile()), COLOR[..., ::-1], 2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    check(encoded(image, "PNG", icc_profile=srgb), COLOR, 0)
    with_alpha = image.copy()
    with_alpha.putalpha(Image.fromarray(ALPHA))
    data = encoded(with_alpha, "PNG", icc_profile=swapped_profile())
    check(data, over_white(COLOR)[..., ::-1], 3)


def test_profiles_that_do_not_fit_are_ignored() -> None:
    check(encoded(Image.fromarray(COLOR), "PNG", icc_profile=b"junk" * 40), COLOR, 0)
    check(encoded(Image.fromarray(GREY), "PNG", icc_profile=swapped_profile()), rgb(GREY), 0)


# --- what is no picture ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "no image of a kind that Pillow reads; it begins with b'<!DOCT"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "it begins with .*ftypheic"),
        (encoded(Image.fromarray(COLOR), "JPEG")[:-300], "damaged or cut short"),
        (encoded(Image.fromarray(COLOR), "PNG")[:-40], "damaged or cut short"),
        (png(8, 2, b"", size=(60000, 60000)), "3600000000 pixels.* raise PIL.Image.MAX_IMAGE_PIX"),
    ],
)
def test_errors_name_the_file_and_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot decode a\.jpg: .*{why}") as caught:
        decode_pixels(data, "a.jpg")
    assert "BytesIO" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_utf_8_can_be_printed() -> None:
    with pytest.raises(ValueError, match="cannot decode lat�n.jpg: the file is empty") as caught:
        decode_pixels(b"", "lat\udcefn.jpg")
    str(caught.value).encode()


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of what it guesses in damaged files
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM", "WEBP"])
def test_damaged_files_give_a_picture_or_the_one_error(kind: str) -> None:
    if kind == "WEBP":
        need("webp")
    whole = encoded(Image.fromarray(COLOR), kind, **({"exif": exif(6)} if kind != "PPM" else {}))
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 600), 6):
            data[at] = rng.integers(256)
        try:
            pixels = decode_pixels(bytes(data[: rng.integers(20, len(data) + 1)]), "x")
        except ValueError as error:
            errors.append(str(error))
        else:
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    assert errors
    for error in errors:
        assert error.startswith("cannot decode x: ")
        assert "BytesIO" not in error
