"""What a data folder holds and what it lacks, in plain words."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastcam._util.names import printable
from fastcam.data.decoding import decode_pixels, image_size
from fastcam.data.folder import FaceFolder, MaskedFolder, is_celeba
from fastcam.data.image_index import read_index
from fastcam.data.layout import CONFIG, FolderLayout
from fastcam.data.layout_finder import find_layout, find_regions, keep_regions, place_of
from fastcam.data.tables import SPLITS

#: Images of which size and masks are looked at.
_LOOKED_AT = 50
#: Labels and classes that are listed one by one.
_LISTED = 12
# Values of 12 bits in files of 16 are at most this of 255.
_DARK = 16
# With fewer images of a kind than this in a split, its numbers say little.
_FEW = 10


@dataclass
class Description:
    """What a folder holds.

    Attributes:
        found: lines of (what, words).
        missing: sentences; with them it can be used, if not for everything.
        layout: where everything lies; None for faces in CelebA's layout, which need no file.
        example: an attribute and a region to begin with, if there are any.
    """

    found: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    layout: FolderLayout | None = None
    example: tuple[str, str | None] | None = None

    def __str__(self) -> str:
        width = max((len(what) for what, _ in self.found), default=0) + 2
        lines = [f"{what:<{width}}{words}" for what, words in self.found]
        return "\n".join([*lines, *(f"missing: {sentence}" for sentence in self.missing)])


def describe(
    root: str | Path,
    *,
    regions: str | Path | None = None,
    **given: str | tuple[str, ...] | None,
) -> Description:
    """Look at a data folder.

    Args:
        root: the folder.
        regions: where the masks lie, see :class:`MaskedFolder`.
        given: fields of :class:`FolderLayout` that are known; the others are found out.

    Raises:
        ValueError, FileNotFoundError: it cannot be used; the message says what is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder")
    if is_celeba(root) and regions is None and not any(given.values()):
        return _faces(root)
    places = [] if regions is None else [place_of(root, regions)]
    layout = find_layout(root, without=places, **given)
    for place in places:
        layout = find_regions(root, layout, place, read_index(root, layout, places).names)
    if (root / CONFIG).is_file() and not layout.coco:
        before = FolderLayout.load(root)
        names = read_index(root, layout, places).names
        layout = keep_regions(root, layout, before, names, named=regions is not None)
    return _masked(MaskedFolder(root, layout))


def _faces(root: Path) -> Description:
    found = Description()
    folder = FaceFolder(root)
    counts = {}
    for split in SPLITS:
        counts[split] = len(folder.images(split))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        folder.images("all", regions=folder.regions)
    found.found = [
        ("layout", "faces as in CelebA; no fastcam.json is needed"),
        ("labels", f"{len(folder.attributes)} attributes: {_listed(folder.attributes)}"),
        ("splits", _counted(counts)),
    ]
    found.missing = [str(warning.message) for warning in said]
    found.missing += [f"there is no image to {_USE[s]}" for s, n in counts.items() if not n]
    found.example = (folder.attributes[0], "mouth")
    return found


_USE = {"train": "train with", "valid": "validate with", "test": "test with"}


def _masked(folder: MaskedFolder) -> Description:
    layout, index = folder.layout, folder.index
    found = Description(layout=layout)
    found.found.append(("images", f"{len(index.names)} with labels in {layout.images}/"))
    where = layout.table or ", ".join(layout.coco) or "the images' folders"
    if layout.table is not None:
        where += f", images in column {layout.file}"
    found.found.append(("labels", f"{where}: {_labels(folder)}"))
    if index.inner:
        found.found.append(
            ("", f"folders in these are of their class, as {printable(index.inner[0])}")
        )
    if index.unused:
        found.found.append(("", f"not used: {_listed(index.unused)}"))
    counts = Counter(index.splits)
    by_split = {split: counts[split] for split in SPLITS}
    found.found.append(("splits", f"{_counted(by_split)}; by {index.split_by}"))
    shown: list[str] = []
    for region in folder.regions:
        source = folder.source(region)
        have = sum(source.has(name, region) for name in index.names)
        shown += [region] if have else []
        path = layout.regions.get(region, ", ".join(layout.coco))
        found.found.append((f"region {region}", f"{path}: in {have} images"))
        if not have:
            found.missing.append(f"no image has a mask of {region}")
    found.missing += _absent(folder, by_split)
    found.example = _example(folder, shown or folder.regions)
    return found


def _example(folder: MaskedFolder, regions: Sequence[str]) -> tuple[str, str | None]:
    """An attribute that some images have, and a region: that of its name, if there is one."""
    columns = folder.index.labels.T
    names = [a for a, column in zip(folder.attributes, columns, strict=True) if column.any()]
    names = names or list(folder.attributes)
    both = [name for name in names if name in regions]
    return (both[0], both[0]) if both else (names[0], regions[0] if regions else None)


def _labels(folder: MaskedFolder) -> str:
    index = folder.index
    shares = index.labels.mean(0)
    kind = "classes" if index.exclusive else "labels"
    parts = [f"{name} {share:.0%}" for name, share in zip(index.attributes, shares, strict=True)]
    return f"{len(parts)} {kind}: {_listed(parts)}"


def _absent(folder: MaskedFolder, by_split: dict[str, int]) -> list[str]:
    index, layout = folder.index, folder.layout
    found = [f"there is no image to {_USE[split]}" for split, n in by_split.items() if not n]
    if by_split["valid"] and not by_split["test"]:
        found[-1] += "; `fastcam evaluate --split valid` judges the validation images"
    if index.unlabelled:
        first = printable(index.unlabelled[0])
        found.append(f"{len(index.unlabelled)} images have no label ({first}, …) and are left out")
    splits = np.array(index.splits)
    for name, column in zip(index.attributes, index.labels.T, strict=True):
        few = [
            f"{n} {split} images"
            for split in SPLITS
            if by_split[split] and (n := int(column[splits == split].sum())) < _FEW
        ]
        if few and len(found) < _LISTED:
            found.append(f"only {' and '.join(few)} have {name}")
    if not folder.regions:
        found.append(
            "masks: without them networks can be trained and judged, not guided. Put a PNG named"
            " after each image into masks/, or into a folder for each region there"
        )
    if _dark(folder, layout):
        found.append(
            f"light: in the images that were looked at no value is above {_DARK} of 255. Are they"
            " of 12 bits in files of 16? Stretch them first, or networks see hardly anything"
        )
    found += _misfits(folder, layout)
    return found


def _dark(folder: MaskedFolder, layout: FolderLayout) -> bool:
    """Whether some of the images are all nearly black."""
    names = folder.index.names
    for name in names[:: max(1, len(names) // _LOOKED_AT)]:
        data = (folder.root / layout.images / name).read_bytes()
        try:
            if decode_pixels(data, name).max() > _DARK:
                return False
        except ValueError:  # a damaged one, which training names
            return False
    return True


def _misfits(folder: MaskedFolder, layout: FolderLayout) -> list[str]:
    """Masks that do not fit their images, or show nothing, among some of the images."""
    names = folder.index.names
    step = max(1, len(names) // _LOOKED_AT)
    shows: dict[str, list[bool]] = {region: [] for region in folder.regions}
    for name in names[::step]:
        path = folder.root / layout.images / name
        width, height = image_size(path.read_bytes(), name)
        for region in folder.regions:
            source = folder.source(region)
            try:
                mask = source.read(name, region, (height, width))
            except ValueError as error:
                return [str(error)]
            if source.has(name, region):
                shows[region].append(bool(mask.any()))
    return [
        f"all {len(seen)} masks of {region} that were looked at are empty: such images are not"
        " guided"
        for region, seen in shows.items()
        if seen and not any(seen)
    ]


def _listed(parts: list[str]) -> str:
    more = f", … and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return ", ".join(parts[:_LISTED]) + more


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {split}" for split, n in counts.items())
