"""Masks in image files beside the images: read, and found by the images' names."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastcam._util.names import composed, printable
from fastcam.data.cache import file_state
from fastcam.data.decoding import turn_of
from fastcam.data.folder_source import walk_images
from fastcam.data.label_table import bare
from fastcam.data.layout import IMAGE_FOLDERS, MASK_FOLDERS

#: Between an image's name and that of a region: ``0001_wing.png``.
MARKS = "_-. "
_LOSSY = (".jpg", ".jpeg", ".webp")
# Another number wherever :func:`read_mask` changes, so that masks that are kept are read again.
_READING = 5
# Below this are labels; of the greys at a soft border some are above.
_LABELS = 32
# A suffix that fewer of a hundred images have, and fewer than this, is no region's name.
_RARE, _FEW = 0.01, 3
# How masks beside their images are called, and how many values one has at most.
_BESIDE = re.compile("mask|seg|gt|annot", re.IGNORECASE)
_FLAT = 16
# What stands for an image in the path of its mask.
_MARKED = re.compile("{name}|{stem}|{below}|{above}/")


def read_mask(path: str | Path, values: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Read a mask.

    Of a file with two values the larger one is the region, and of one with a single value all, or
    nothing where that is 0; greys between 0 and 255 are shares of a pixel (three values or more,
    all but 255 below 32, are a label map's). Of an image in colour the brightest channel counts, of
    one with a palette the index, or the brightness where it shows two greys alone, as black and
    white, whose order in a palette means nothing. In JPEG and WebP, which blur the border, what is
    brighter than the middle is the region.

    What was drawn on a transparent background is read by its opacity, as shares of the largest,
    where all that can be seen has one colour, whichever. Of several colours the brightness counts
    as on black (with a palette the index); an image that is equally opaque everywhere is read as
    one without transparency, and one of a single colour that is transparent everywhere is empty.

    A mask is turned upright as its EXIF (or XMP) orientation says, as images are.

    Args:
        path: a PNG, or another image that Pillow reads.
        values: of a label map, those that are the region, as they are stored: transparency does not
            count.

    Returns:
        uint8 [H, W], 255 where the region covers a pixel.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds a label map of which no values are named, or colours of
            which none is brighter.
    """
    path = Path(path)
    try:
        # From memory: where Pillow may map the file, it lays the rows of a turned TIFF out wrongly.
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            file.load()
            turn = turn_of(file)
            image = file if turn is None else file.transpose(turn)
            palette = image.mode == "P"
            clear = image.mode in ("LA", "PA", "RGBA") or (
                image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
            )
            pixels = np.array(image.convert("RGBA")) if clear and values is None else None
            if palette and values is None and _two_greys(image):
                image, palette = image.convert("L"), False
            elif image.mode in ("LA", "PA", "RGBA", "CMYK", "YCbCr"):
                image = image.convert("RGB")
            found: NDArray[Any] = np.array(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise whatever they trip over
        raise ValueError(f"mask {printable(str(path))} cannot be read: {error}") from None
    colours = found
    if found.ndim == 3:
        found = found.max(-1)
    if pixels is not None:
        found, palette = _drawn(found, pixels, palette)
    if values is not None:
        return np.where(np.isin(found, list(values)), np.uint8(255), np.uint8(0))
    if found.dtype == bool:
        return found.astype(np.uint8) * np.uint8(255)
    if path.suffix.lower() in _LOSSY and found.dtype == np.uint8:
        return np.where(found > 127, np.uint8(255), np.uint8(0))
    kinds = (
        np.flatnonzero(np.bincount(found.ravel(), minlength=256))
        if found.dtype == np.uint8
        else np.unique(found)
    )
    if len(kinds) == 1 and colours.ndim == 3 and (colours != colours[0, 0]).any():
        first, other = np.unique(colours.reshape(-1, colours.shape[-1]), axis=0)[:2].tolist()
        raise ValueError(
            f"mask {printable(str(path))}: expected the region brighter than what is around it, got"
            f" colours of one brightness, {tuple(first)} and {tuple(other)}"
        )
    if len(kinds) <= 2:
        smaller = kinds[0] if len(kinds) == 2 else 0
        return np.where(found > smaller, np.uint8(255), np.uint8(0))
    # 255 with nothing but small numbers below is what label maps leave out, no brightest grey.
    if palette or kinds[-1] != 255 or kinds[-2] < _LABELS:
        some = ", ".join(str(k) for k in kinds[:6]) + (", …" if len(kinds) > 6 else "")
        raise ValueError(
            f"mask {printable(str(path))} holds the values {some}: of a label map say in"
            ' fastcam.json which are the region, as in "masks/{stem}.png=1"'
        )
    return found.astype(np.uint8)


def _two_greys(image: Image.Image) -> bool:
    """Whether an image with a palette shows two greys, or one alone."""
    used = np.unique(np.asarray(image))
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if len(used) > 2 or used[-1] >= len(colours):
        return False
    shown = colours[used]
    return bool((shown == shown[:, :1]).all()) and len(np.unique(shown)) == len(used)


def _drawn(
    found: NDArray[Any], pixels: NDArray[np.uint8], palette: bool
) -> tuple[NDArray[Any], bool]:
    """What of a mask [H, W] can be seen, of its pixels [H, W, 4] (RGBA); and whether these are
    still indices of the palette."""
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if not alpha.any():
        # Some programs leave the fourth channel 0; then the colours have the shape, if any.
        empty = (colours == colours[0, 0]).all()
        return (np.zeros_like(alpha), False) if empty else (found, palette)
    if alpha.min() == alpha.max():
        return found, palette
    most = np.unravel_index(alpha.argmax(), alpha.shape)
    apart = np.abs(colours.astype(np.int32) - colours[most]) * alpha[..., None]
    # One colour, up to the rounding of programs that keep it multiplied by the opacity.
    if (apart < 255).all():
        return np.round(alpha * (255 / alpha.max())).astype(np.uint8), False
    if palette:
        return found, True
    return np.round(colours.max(-1) * (alpha / 255)).astype(np.uint8), False


class MaskFiles:
    """The masks of a folder's images, by region.

    Args:
        root: that the paths are relative to.
        patterns: see :attr:`fastcam.data.layout.FolderLayout.regions`.

    Raises:
        ValueError: a path without ``{stem}``, ``{name}`` or ``{below}``.
    """

    def __init__(self, root: str | Path, patterns: Mapping[str, str]) -> None:
        self.root = Path(root)
        self._patterns: dict[str, tuple[str, list[int] | None]] = {}
        for region, pattern in patterns.items():
            path, values = _parted(pattern)
            if not any(mark in path for mark in ("{stem}", "{name}", "{below}")):
                raise ValueError(
                    f"regions, {region}: expected a path with {{stem}} or {{name}} for that of the"
                    f" image, got {pattern!r}"
                )
            self._patterns[region] = path, values

    @property
    def names(self) -> tuple[str, ...]:
        """The regions."""
        return tuple(self._patterns)

    def path(self, image: str, region: str) -> Path:
        """Where an image's mask is, if it has one."""
        name = bare(image)
        path = self._patterns[region][0]
        above, below = _parted_name(name)
        texts = {"{name}": name, "{stem}": name.rpartition("/")[2], "{below}": below}
        texts["{above}/"] = above and f"{above}/"
        path = _MARKED.sub(lambda mark: texts[mark[0]], path)
        found = self.root / path
        if not path.isascii() and not found.is_file():
            # Accents may be stored otherwise than in the image's name: apart, as macOS does.
            forms = (self.root / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
            found = next(filter(Path.is_file, forms), found)
        return found

    def has(self, image: str, region: str) -> bool:
        """Whether an image has the region."""
        return self.path(image, region).is_file()

    def state(self, image: str, region: str) -> tuple[int, ...] | None:
        """What changes with an image's mask: of its file, None where there is none."""
        try:
            return *file_state(self.path(image, region)), _READING
        except FileNotFoundError:
            return None

    def read(self, image: str, region: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """An image's mask: uint8 [H, W], see :func:`read_mask`; all zero where it has none.

        Args:
            size: (H, W) of the image.

        Raises:
            ValueError: a mask of another size, or one that cannot be read.
        """
        path = self.path(image, region)
        try:
            mask = read_mask(path, self._patterns[region][1])
        except FileNotFoundError:
            return np.zeros(size, np.uint8)
        if mask.shape != size:
            sides = [f"{width}×{height}" for height, width in (mask.shape, size)]
            raise ValueError(
                f"mask {printable(str(path))} is {sides[0]} pixels, its image"
                f" {printable(image)} {sides[1]}"
            )
        return mask


def _parted_name(name: str) -> tuple[str, str]:
    """The folders above that of the images in an image's path, and the path below it; of an image
    in no folder of that name, its folders and its stem."""
    *folders, stem = name.split("/")
    ends = (i for i in range(len(folders), 0, -1) if folders[i - 1].lower() in IMAGE_FOLDERS)
    end = next(ends, None)
    if end is None:
        return "/".join(folders), stem
    return "/".join(folders[: end - 1]), "/".join([*folders[end:], stem])


def _parted(pattern: str) -> tuple[str, list[int] | None]:
    """The path of a pattern, and the values of a label map behind it."""
    path, equals, values = pattern.rpartition("=")
    try:
        return (path.strip(), [int(v) for v in values.split(",")]) if equals else (pattern, None)
    except ValueError:
        return pattern, None  # a file name may hold the sign


def path_of(pattern: str) -> str:
    """The path of a pattern, without the values of a label map."""
    return _parted(pattern)[0]


def find_masks(root: str | Path, place: str, images: Iterable[str]) -> dict[str, str]:
    """Find the masks in a folder: one for an image, or several of different regions.

    Read are ``place/STEM.png`` (the region is called as the folder), ``place/STEM_wing.png``
    (``wing``) and ``place/wing/STEM.png`` (``wing``); where images lie in folders, masks may lie in
    folders of the same names.

    Args:
        root: the data folder.
        place: folder of the masks, relative to it.
        images: the images' paths.

    Returns:
        A path by region, see :attr:`fastcam.data.layout.FolderLayout.regions`; empty where no file
        is named after an image.

    Warns:
        UserWarning: a mask is taken for several images, which lie in folders of their own.
    """
    names = [bare(composed(image)) for image in images]
    paths, stems = set(names), {name.rpartition("/")[2] for name in names}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    folder = Path(root) / place
    for inner, file in walk_images(folder):
        found = _match(composed(inner), composed(file), paths, stems)
        if found is not None:
            region, paths_of = found
            for path in paths_of:
                votes[region or folder.name][f"{place.rstrip('/')}/{path}"] += 1
    patterns = _elected(votes, len(names))
    _warn_of_shared(Path(root), patterns, names)
    return patterns


def _elected(votes: Mapping[str, Counter[str]], images: int) -> dict[str, str]:
    """The path of each region that most files have; without regions of too few."""
    least = min(_FEW, _RARE * images)
    best = {region: counted.most_common(1)[0] for region, counted in votes.items()}
    return {region: path for region, (path, n) in sorted(best.items()) if n >= least}


def _warn_of_shared(root: Path, patterns: Mapping[str, str], names: Sequence[str]) -> None:
    """Tell of masks that are named after images in several folders: they may be of one alone."""
    of_stem: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_stem[name.rpartition("/")[2]].append(name)
    several = {stem: images for stem, images in of_stem.items() if len(images) > 1}
    for pattern in patterns.values():
        paths = {stem: pattern.replace("{stem}", stem) for stem in several if "{stem}" in pattern}
        shared = [stem for stem, path in paths.items() if (root / path).is_file()]
        if shared:
            one, other = map(printable, several[shared[0]][:2])
            warnings.warn(
                f"{printable(paths[shared[0]])} is taken for {one} and for {other}"
                f" ({len(shared)} such masks): if it is of one alone, put it into a folder of the"
                " same name as the image's",
                stacklevel=3,
            )


def find_beside(root: str | Path, place: str, files: Sequence[str]) -> dict[str, str]:
    """Find masks that lie beside their images: ``STEM_mask.png`` by ``STEM.jpg``.

    Args:
        root: the data folder.
        place: folder of the images, relative to it.
        files: paths of what lies there, masks among them.

    Returns:
        A path by region, see :func:`find_masks`; empty where such files are no masks.
    """
    known = {bare(file) for file in files}
    masks = [file for file in files if _is_beside(bare(file), known)]
    first = next(iter(masks), None)
    try:
        # A photograph of somebody with a mask may be called so, too.
        if first is None or len(np.unique(read_mask(Path(root) / place / first))) > _FLAT:
            return {}
    except ValueError:
        return {}
    images = sorted({*files} - {*masks})
    found = find_masks(root, place, images)
    ahead = "" if place == "." else f"{place}/"
    return {
        region: ahead + path.removeprefix(f"{place}/")
        for region, path in found.items()
        if _BESIDE.match(region) and not path.rpartition(".")[0].endswith("}")
    }


def find_inside(place: str, files: Sequence[str]) -> dict[str, str]:
    """Find masks in folders inside that of the images: ``train/masks`` by ``train/images``, or in
    ``train`` where the images lie there themselves.

    Args:
        place, files: as in :func:`find_beside`.

    Returns:
        A path by region, see :func:`find_masks`; empty where such files are no masks.
    """
    masks: list[tuple[str, str, str, str]] = []
    paths: dict[str, set[str]] = defaultdict(set)  # of the images, by the folders above them
    for file in map(composed, files):
        *folders, last = file.split("/")
        at = next((i for i, folder in enumerate(folders) if folder.lower() in MASK_FOLDERS), None)
        if at is None:
            above, below = _parted_name(bare(file))
            paths[above].add(below)
        else:
            inner = "".join(f"{folder}/" for folder in folders[at + 1 :])
            masks.append(("/".join(folders[:at]), folders[at], inner, last))
    stems = {above: {path.rpartition("/")[2] for path in those} for above, those in paths.items()}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    ahead = "" if place == "." else f"{place}/"
    for above, folder, inner, last in masks:
        if above in paths and (found := _match(inner, last, paths[above], stems[above])):
            region, paths_of = found
            for path in paths_of:
                path = path.replace("{name}", "{below}")
                votes[region or folder][f"{ahead}{{above}}/{folder}/{path}"] += 1
    return _elected(votes, sum(map(len, paths.values())))


def _is_beside(name: str, known: Collection[str]) -> bool:
    """Whether a path without suffix is another's with a word for masks behind it."""
    return any(
        name[i] in MARKS and _BESIDE.match(name, i + 1) and name[:i] in known
        for i in range(1, len(name))
    )


def without_masks(files: Sequence[str], place: str, patterns: Iterable[str]) -> list[str]:
    """The images among files, some of which may be masks that lie beside them or in folders there.

    Args:
        files: paths of what lies in the folder of the images.
        place: that folder, relative to the data folder.
        patterns: of the masks, see :attr:`fastcam.data.layout.FolderLayout.regions`.
    """
    ends, inside = set(), set()
    for pattern in patterns:
        _, mark, end = pattern.partition("{above}/")
        if mark:
            inside.add(end.partition("/")[0])
            continue
        folder, mark, end = _parted(pattern)[0].partition("{")
        end = end.partition("}")[2].rpartition(".")[0]
        if mark and end and (folder.rstrip("/") or ".") == place.rstrip("/"):
            ends.add(end)
    known = {bare(file) for file in files} if ends else set()

    def is_mask(name: str) -> bool:
        if inside and not inside.isdisjoint(name.split("/")[:-1]):
            return True
        # Further ones of an image, as STEM_mask_1.png, belong to none of the regions, maybe.
        return any((at := name.rfind(end)) > 0 and name[:at] in known for end in ends)

    return [file for file in files if not is_mask(bare(file))]


def _match(inner: str, file: str, paths: set[str], stems: set[str]) -> tuple[str, list[str]] | None:
    """Region and path patterns of a mask file in a folder; None where no image has its name."""
    stem, dot, suffix = file.rpartition(".")
    within = inner.rstrip("/")
    for end in (len(stem), *(i for i in range(len(stem) - 1, 0, -1) if stem[i] in MARKS)):
        head, mark = stem[:end], stem[end : end + 1]
        region = stem[end + 1 :]
        rest = f"{mark}{region}{dot}{suffix}"
        if within and f"{inner}{head}" in paths:  # folders as the images' own
            return region, [f"{{name}}{rest}"]
        first, slash, behind = inner.partition("/")
        if slash and behind and f"{behind}{head}" in paths:  # the same in a region's folder
            return "_".join(filter(None, (first, region))), [f"{first}/{{name}}{rest}"]
        if head in stems:
            named = "_".join(filter(None, (within.replace("/", "_"), region)))
            found = [f"{inner}{{stem}}{rest}"]
            if head in paths:  # of an image in no folder: other images may lie in some
                found.append(f"{inner}{{name}}{rest}")
            return named, found
    return None
