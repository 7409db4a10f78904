"""Data folders: images with labels, and what their regions are drawn from, by split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fastcam._util import checks as check
from fastcam._util.names import printable
from fastcam.data.cache import file_state, stamp
from fastcam.data.celeba import CelebA, FaceTables, decode
from fastcam.data.coco import CocoFiles
from fastcam.data.folder_source import FolderSource
from fastcam.data.image_index import ImageIndex, read_index
from fastcam.data.label_table import read_label_table
from fastcam.data.labelled import AnyRegion, Images, Sample, attribute_index
from fastcam.data.layout import CONFIG, FolderLayout
from fastcam.data.layout_finder import find_layout, find_regions, place_of
from fastcam.data.mask_files import MaskFiles, find_masks
from fastcam.data.source import FOLDER
from fastcam.data.tables import ATTRIBUTE_TABLE, SPLITS
from fastcam.regions import FACE_PARTS, REGION_NAMES, MaskRegion, Region

# With more regions than this, none is hidden unasked; so many values are listed.
_MANY = 12


class FaceFolder:
    """Faces in CelebA's layout, whose regions are drawn from landmarks.

    Args:
        root: the folder.
        landmarks: landmark table in place of the folder's own.

    Attributes:
        table: the file that holds the labels.
        parts: regions that are hidden one after another unless others are named.
        exclusive: whether an image has one of the attributes alone; False.
    """

    exclusive = False

    def __init__(self, root: str | Path, landmarks: str | Path | None = None) -> None:
        self.root, self._landmarks = Path(root), landmarks
        self._tables = FaceTables(root)
        self.table = self.root / ATTRIBUTE_TABLE
        self.parts = FACE_PARTS
        self.regions = REGION_NAMES

    @property
    def attributes(self) -> list[str]:
        """Names of the labels.

        Raises:
            FileNotFoundError, ValueError: there is no such table, or a malformed one.
        """
        return self._tables.attributes.columns

    def region(self, text: str) -> AnyRegion:
        """Read a region, see :meth:`fastcam.regions.Region.parse`."""
        return Region.parse(text)

    def images(
        self, split: str, attributes: Sequence[str] | None = None, regions: Sequence[str] = ()
    ) -> Images:
        """A split; arguments and errors as for :class:`CelebA`. Images and tables are read once.

        ``regions``: any can be drawn; where none is named, nothing is said of missing landmarks.
        """
        return CelebA(
            self._tables,
            split,
            landmarks=self._landmarks,
            attributes=attributes,
            regions=bool(regions),
        )

    def labels_of(self, names: Sequence[str], attribute: str) -> Tensor:
        """A label of images by their names: float32 [N, 1], 0 or 1, from the table alone.

        Args:
            names: of N images; of none, this only checks that there is such a label.
            attribute: the label's name.

        Raises:
            ValueError: there is none of that name.
        """
        column = attribute_index(self.attributes, attribute)
        if not names:
            return torch.zeros(0, 1)
        table = self._tables.attributes
        return _of_images(table.values[:, column], table.names, names)


class MaskedFolder:
    """Images of any kind, whose regions are masks.

    Args:
        root: the folder.
        layout: where everything lies; None reads ``fastcam.json``, or finds it out.
        regions: where the masks lie, in place of what the layout says: a folder, or a file in
            COCO's format; relative to where the program runs, or to the data folder.

    Attributes:
        table: the file that holds the labels, or None.
        parts, exclusive: see :class:`FaceFolder`.

    Raises:
        ValueError: the layout cannot be found out, or does not fit the files.
        FileNotFoundError: a part is missing.
    """

    def __init__(
        self,
        root: str | Path,
        layout: FolderLayout | None = None,
        regions: str | Path | None = None,
    ) -> None:
        self.root = Path(root)
        places = [] if regions is None else [place_of(self.root, regions)]
        if layout is None:
            known = (self.root / CONFIG).is_file()
            layout = (
                FolderLayout.load(self.root) if known else find_layout(self.root, without=places)
            )
        self.layout = layout
        self.index: ImageIndex = read_index(self.root, layout, places)
        for place in places:
            self.layout = find_regions(self.root, layout, place, self.index.names)
        self.table = None if layout.table is None else self.root / layout.table
        self.attributes, self.exclusive = self.index.attributes, self.index.exclusive
        files = self.layout.regions
        self._sources: list[Any] = [MaskFiles(self.root, files)] if files else []
        if self.layout.coco:
            known_coco = self.index.coco if self.layout.coco == layout.coco else None
            self._sources.append(
                known_coco
                or CocoFiles(
                    [self.root / path for path in self.layout.coco],
                    self.index.names,
                    self.root / layout.images,
                )
            )
        self.regions = tuple(dict.fromkeys(name for s in self._sources for name in s.names))
        self.parts = self.regions if len(self.regions) <= _MANY else ()

    def region(self, text: str) -> AnyRegion:
        """Read a region; ValueError for one that the data do not have."""
        return MaskRegion.parse(text, self.regions)

    def source(self, region: str) -> Any:
        """Where the masks of a region come from: has ``has`` and ``read``."""
        return next(s for s in self._sources if region in s.names)

    def images(
        self, split: str, attributes: Sequence[str] | None = None, regions: Sequence[str] = ()
    ) -> MaskedImages:
        """A split.

        Args:
            split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
            attributes: keep only these, in this order; of classes they must be all.
            regions: texts of the regions that are going to be drawn: only their masks are read.

        Raises:
            ValueError: an unknown split, attribute or region.
        """
        names = [name for text in regions for name in MaskRegion.parse(text, self.regions).names]
        return MaskedImages(self, split, attributes, tuple(dict.fromkeys(names)))

    def labels_of(self, names: Sequence[str], attribute: str) -> Tensor:
        """See :meth:`FaceFolder.labels_of`; ``attribute`` is one of the labels, or what the table
        has beside them: a column of 0 and 1, or ``COLUMN=VALUE``."""
        return _of_images(self._label(attribute), self.index.names, names)

    def _label(self, name: str) -> NDArray[np.bool_]:
        index = self.index
        if name in index.attributes or self.table is None:
            return index.labels[:, attribute_index(index.attributes, name)]
        table = read_label_table(self.table)  # an image of the index has its row
        if len(table.rows) != len(index.names):
            raise ValueError(f"{self.table} was changed while it was read: try again")
        column, mark, value = name.partition("=")
        if name not in table.columns and mark and column in table.columns:
            cells = table[column]
            if value not in cells:
                some = ", ".join(sorted(set(cells))[:_MANY])
                raise ValueError(f"{self.table}, {column}: no cell is {value!r}; it has: {some}")
            return np.array([cell == value for cell in cells], bool)
        if name not in table.columns:
            raise ValueError(
                f"unknown label {name!r}; this data has: {', '.join(index.attributes)}; and the"
                f" columns of {self.table}, as COLUMN or COLUMN=VALUE: {', '.join(table.columns)}"
            )
        try:
            return table.flags(name)
        except ValueError as error:
            raise ValueError(f"{error}; one value of many is {name}=VALUE") from None


class MaskedImages(Dataset[Sample]):
    """A split of a :class:`MaskedFolder`, with the masks of some regions.

    Attributes:
        attributes, names, labels, exclusive: see :class:`fastcam.data.labelled.Images`.
        shown: the regions, R of them, in the order of a sample's masks.
    """

    transform = None

    def __init__(
        self,
        folder: MaskedFolder,
        split: str,
        attributes: Sequence[str] | None,
        shown: tuple[str, ...],
    ) -> None:
        check.one_of("split", split, (*SPLITS, "all"))
        index = folder.index
        rows = [i for i, s in enumerate(index.splits) if split in (s, "all")]
        self.folder, self.split, self.shown = folder, split, shown
        self.exclusive = folder.exclusive
        self.attributes = list(index.attributes if attributes is None else attributes)
        columns = [attribute_index(index.attributes, name) for name in self.attributes]
        if self.exclusive and sorted(columns) != list(range(len(index.attributes))):
            raise ValueError(
                f"attributes: expected all {len(index.attributes)} classes, of which each image"
                f" has one, got {len(columns)}"
            )
        self.names = [index.names[i] for i in rows]
        self.labels = torch.from_numpy(index.labels[np.ix_(rows, columns)].astype(np.float32))
        self.source = FolderSource(folder.root / folder.layout.images)
        self._sources = [folder.source(name) for name in shown]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        name = self.names[index]
        image = decode(self.source.read(name), name)
        size = (image.shape[-2], image.shape[-1])
        masks = np.zeros((len(self.shown), *size), np.uint8)
        for i, (region, source) in enumerate(zip(self.shown, self._sources, strict=True)):
            masks[i] = source.read(name, region, size)
        return {
            "image": image,
            "labels": self.labels[index],
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
            "index": index,
        }

    def stamps(self, indices: Sequence[int]) -> NDArray[np.uint64]:
        """A number for each of some images that is another one once its file or one of its masks
        was written again."""
        found = []
        for name in (self.names[i] for i in indices):
            masks = [s.state(name, r) for r, s in zip(self.shown, self._sources, strict=True)]
            found.append(stamp(file_state(self.source.path / name), *masks))
        return np.array(found, np.uint64)

    def region(self, text: str) -> AnyRegion:
        """A region of those that are shown."""
        MaskRegion.parse(text, self.folder.regions)  # says what the data have
        return MaskRegion.parse(text, self.shown)

    def counts(self, indices: Sequence[int]) -> dict[str, int]:
        """How many of some images have a mask of each region."""
        pairs = zip(self.shown, self._sources, strict=True)
        return {r: sum(s.has(self.names[i], r) for i in indices) for r, s in pairs}


#: What :func:`open_folder` finds.
DataFolder = FaceFolder | MaskedFolder


def open_folder(
    root: str | Path | DataFolder,
    *,
    landmarks: str | Path | None = None,
    regions: str | Path | None = None,
) -> DataFolder:
    """Find out what a data folder holds.

    A folder with ``fastcam.json`` (``fastcam init`` writes one) is read as that says, one in
    CelebA's layout as faces; in any other images, labels and masks are looked for.

    Args:
        root: the folder, or one that is open.
        landmarks: of faces: landmark table in place of the folder's own.
        regions: where the masks lie, see :class:`MaskedFolder`.

    Raises:
        ValueError: it cannot be found out; the message says what is missing.
        FileNotFoundError: a part is missing.
    """
    if isinstance(root, FaceFolder | MaskedFolder):
        return root
    root = Path(root)
    if (root / CONFIG).is_file() or (root.is_dir() and not is_celeba(root)):
        if landmarks is not None:
            raise ValueError(f"landmarks: expected none, as {root} is not in CelebA's layout")
        return MaskedFolder(root, regions=regions)
    if regions is not None:
        raise ValueError(
            f"regions: {root} is in CelebA's layout, where regions are drawn from landmarks;"
            f" `fastcam init --regions` makes it a folder of images with masks"
        )
    return FaceFolder(root, landmarks)


def _of_images(column: NDArray[Any], known: Sequence[str], names: Sequence[str]) -> Tensor:
    """float32 [N, 1]: the rows of a column that are named."""
    place = {name: row for row, name in enumerate(known)}
    rows = [place[name] for name in names]
    return torch.from_numpy(column.astype(np.float32)[rows])[:, None]


class ImageMasks:
    """The masks of image files that are named one by one.

    Args:
        images: the files.
        place: folder of the masks, see :func:`fastcam.data.mask_files.find_masks`, in folders as
            the images or not; a file in COCO's format; or a data folder with ``fastcam.json``,
            which says where its masks lie.

    Attributes:
        regions: those of which there is a mask of an image; of COCO's files and data folders all.

    Raises:
        FileNotFoundError: there is no such place.
        ValueError: no mask is named after an image, or an image is none of the data folder's.
    """

    def __init__(self, images: Sequence[str | Path], place: str | Path) -> None:
        place = Path(place)
        if not place.exists():
            raise FileNotFoundError(f"regions: {place} does not exist")
        find = _of_data if (place / CONFIG).is_file() else _of_masks
        self._found: dict[Path, tuple[Any, str]] = find([Path(image) for image in images], place)
        sources = [source for source, _ in self._found.values()]
        self.regions = tuple(dict.fromkeys(name for source in sources for name in source.names))
        if not self.regions:
            first = printable(str(next(iter(self._found))))
            raise ValueError(f"regions: no mask in {place} is named after {first}")

    def read(
        self, image: str | Path, region: str, size: tuple[int, int]
    ) -> tuple[MaskRegion, NDArray[np.uint8]]:
        """A region of an image, and its masks, uint8 [R, H, W]; all zero where it has none.

        Args:
            image: one of the files.
            region: names of masks with commas between.
            size: (H, W) of the image.

        Raises:
            ValueError: no image has such a mask, or one that cannot be read.
        """
        source, name = self._found[Path(image)]
        chosen = MaskRegion.parse(region, self.regions)
        read = [
            source.read(name, part, size) if part in source.names else np.zeros(size, np.uint8)
            for part in chosen.names
        ]
        return MaskRegion(chosen.names, tuple(range(len(read)))), np.stack(read)


def _of_masks(images: Sequence[Path], place: Path) -> dict[Path, tuple[Any, str]]:
    """Where each image's masks come from, and its name there: of a folder or a file of masks."""
    found: dict[Path, tuple[Any, str]] = {}
    for image in images:
        if place.is_dir():
            name = _with_folders(image, place)
            patterns = find_masks(place.parent, place.name, [name])
            found[image] = MaskFiles(place.parent, patterns), name
            continue
        whole = image.absolute()
        path = whole.relative_to(whole.anchor).as_posix()
        source = CocoFiles([place.absolute()], [path], Path(whole.anchor))
        if path in source:  # not of an image of the same name in another folder
            found[image] = source, path
        else:
            found[image] = CocoFiles([place], [image.name], image.parent), image.name
    return found


class _LaidOut:
    """The masks of a data folder, of all its sources."""

    def __init__(self, folder: MaskedFolder) -> None:
        self._folder, self.names = folder, folder.regions

    def read(self, image: str, region: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._folder.source(region).read(image, region, size)
        return found


def _of_data(images: Sequence[Path], place: Path) -> dict[Path, tuple[Any, str]]:
    """The same of a data folder that is described."""
    folder = MaskedFolder(place)
    source, root = _LaidOut(folder), (place / folder.layout.images).resolve()
    known, found = set(folder.index.names), {}
    for image in images:
        whole = image.resolve()
        name = whole.relative_to(root).as_posix() if whole.is_relative_to(root) else ""
        if name not in known:
            raise ValueError(
                f"regions: {printable(str(image))} is not among the images with labels of {place}"
            )
        found[image] = source, name
    return found


def _with_folders(image: Path, place: Path) -> str:
    """An image's name with those folders before it that the masks lie in, too."""
    tops = [place, *(Path(entry.path) for entry in os.scandir(place) if entry.is_dir())]
    folders = image.absolute().parent.parts[1:]
    for first in range(len(folders)):
        inner = "/".join(folders[first:])
        if any((top / inner).is_dir() for top in tops):
            return f"{inner}/{image.name}"
    return image.name


def is_celeba(root: Path) -> bool:
    """Whether a folder is in CelebA's layout, in part at least."""
    parts = (ATTRIBUTE_TABLE, FOLDER, f"{FOLDER}.zip")
    return any((root / part).exists() for part in parts)
