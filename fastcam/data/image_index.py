"""Which images a folder holds, with their labels and splits, as its layout says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastcam._util.names import printable
from fastcam.data.coco import CocoFiles
from fastcam.data.folder_source import list_images
from fastcam.data.label_table import (
    SPLIT_WORDS,
    LabelTable,
    bare,
    hashed_split,
    name_rows,
    read_label_table,
)
from fastcam.data.layout import FolderLayout
from fastcam.data.mask_files import without_masks


@dataclass(frozen=True)
class ImageIndex:
    """The images of a folder that have labels.

    Attributes:
        names: paths relative to the folder of the images, N of them.
        attributes: names of the labels, K of them.
        labels: bool [N, K].
        exclusive: whether the labels are classes, of which each image has one.
        splits: ``"train"``, ``"valid"`` or ``"test"``, N of them.
        split_by: what decided that, in words.
        unlabelled: images that the table or the annotations do not name.
        unused: columns of the table that are neither of these.
        coco: the annotation files, where they were read.
        inner: folders in those of the classes, where folders are classes.
    """

    names: list[str]
    attributes: list[str]
    labels: NDArray[np.bool_]
    exclusive: bool
    splits: list[str]
    split_by: str
    unlabelled: list[str]
    unused: list[str]
    coco: CocoFiles | None = None
    inner: Sequence[str] = ()


def read_index(
    root: str | Path, layout: FolderLayout, without: Collection[Path] = ()
) -> ImageIndex:
    """List a folder's images, and read their labels.

    Args:
        root: the folder.
        layout: of it.
        without: folders that hold no images, besides those of the layout's masks.

    Raises:
        FileNotFoundError: a folder or file of the layout is missing.
        ValueError: no image, no label, or a table that does not fit; the message says what.
    """
    root = Path(root)
    folder = root / layout.images
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of images")
    files = list_images(folder, [*(root / place for place in mask_folders(layout)), *without])
    files = without_masks(files, layout.images, layout.regions.values())
    if not files:
        raise ValueError(f"{folder} holds no image (.jpg, .png, …)")
    table: LabelTable | None = None
    coco: CocoFiles | None = None
    exclusive = False
    inner: list[str] = []
    if layout.table is not None:
        table = read_label_table(root / layout.table)
        names = name_rows(table, layout.file or table.columns[0], files)
        attributes, labels, exclusive = _table_labels(table, layout)
    elif layout.coco:
        coco = CocoFiles([root / path for path in layout.coco], files, folder)
        names = [name for name in files if name in coco]
        attributes, labels = list(coco.names), coco.labels(names)
    else:
        names, exclusive = files, True
        classes, inner = _folders(files, folder)
        attributes, labels = _one_of(classes)
    if not names or not attributes:
        raise ValueError(f"{root}: no image has a label")
    splits, by = _splits(names, table, layout)
    have = set(names)
    unlabelled = [name for name in files if name not in have]
    used = {layout.file, layout.classes, layout.split, layout.group, *layout.labels}
    unused = [] if table is None else [c for c in table.columns if c not in used]
    return ImageIndex(
        names, attributes, labels, exclusive, splits, by, unlabelled, unused, coco, inner
    )


def mask_folders(layout: FolderLayout) -> set[str]:
    """The folders of a layout that hold masks alone."""
    found = {path.partition("{")[0].rpartition("/")[0] for path in layout.regions.values()}
    return {folder for folder in found if folder not in ("", ".")}


def _table_labels(
    table: LabelTable, layout: FolderLayout
) -> tuple[list[str], NDArray[np.bool_], bool]:
    if layout.classes is not None:
        attributes, labels = _one_of(table[layout.classes])
        if "" in attributes:
            line = table.lines[table[layout.classes].index("")]
            raise ValueError(f"{table.path}, line {line}: the column {layout.classes} is empty")
        return attributes, labels, True
    if not layout.labels:
        raise ValueError(
            f"{table.path}: name its columns of 0 and 1, or its column of classes"
            " (`fastcam init --labels A,B` or `--classes COLUMN`)"
        )
    columns = [table.flags(name) for name in layout.labels]
    return list(layout.labels), np.stack(columns, 1), False


def _one_of(cells: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Classes, sorted, and bool [N, K] with one of them for each cell."""
    classes = sorted(set(cells), key=lambda c: (len(c), c) if c.isdigit() else (0, c))
    if len(classes) < 2:
        raise ValueError(f"expected two classes or more, got {classes}")
    place = {name: i for i, name in enumerate(classes)}
    return classes, np.eye(len(classes), dtype=bool)[[place[cell] for cell in cells]]


def _folders(names: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """The class of each image, and the folders in those of the classes.

    As torchvision's ImageFolder has it, the class is the outermost folder: below that of the split,
    and below those that all images share.
    """
    split, inner = _split_folders(names)
    while all(len(parts) > 1 and parts[0] == inner[0][0] for parts in inner):
        inner = [parts[1:] for parts in inner]
    # Where only some images lie in folders of splits, these would become classes.
    is_split = [len(parts) > 1 and _split_word(parts[0]) is not None for parts in inner]
    some = sorted({parts[0] for parts, says in zip(inner, is_split, strict=True) if says})
    if split is None and len({_split_word(name) for name in some}) > 1:
        raise ValueError(
            f"{printable(str(folder / names[is_split.index(False)]))} is in no split, while others"
            f" are in {', '.join(some)}: expected all images in such folders, or a table (masks:"
            " `--regions FOLDER`)"
        )
    if not all(inner):
        raise ValueError(
            f"{printable(str(folder / names[inner.index([])]))} has no label: expected a table (CSV"
            " or TSV) with a row for each image, annotations in COCO's format, or a folder for each"
            " class"
        )
    if len({parts[0] for parts in inner}) == 1:
        raise ValueError(
            f"all images of {printable(str(folder))} are in one folder, {inner[0][0]}: expected a"
            " table (CSV or TSV) with a row for each image, annotations in COCO's format, or a"
            " folder for each class"
        )
    _warn_of_twins(names)
    deeper = {"/".join(parts) for parts in inner if len(parts) > 1}
    return [parts[0] for parts in inner], sorted(deeper)


def _warn_of_twins(names: Sequence[str]) -> None:
    """Tell of images that differ in their suffix alone: some may be masks."""
    by_path: dict[str, str] = {}
    for name in names:
        other = by_path.setdefault(bare(name), name)
        if other != name:
            warnings.warn(
                f"{printable(other)} and {printable(name)} are both taken for images: if one is"
                " the other's mask, put masks into a folder masks/",
                stacklevel=3,
            )
            return


def _split_folders(names: Sequence[str]) -> tuple[list[str] | None, list[list[str]]]:
    """The split of each image by a folder that its path has at the same place as all others',
    None where there is none; and its other folders."""
    inner = [name.split("/")[:-1] for name in names]
    for place in range(min(map(len, inner), default=0)):
        found = [_split_word(parts[place]) for parts in inner]
        if all(found):
            rest = [[*parts[:place], *parts[place + 1 :]] for parts in inner]
            return [str(split) for split in found], rest
    return None, inner


#: The year that COCO's folders have behind the split: train2017, or VOC's: val_2012.
_YEAR = re.compile(r"[-_ ]?(19|20)\d\d$")


def _split_word(folder: str) -> str | None:
    word = _YEAR.sub("", folder.lower())
    return SPLIT_WORDS.get(word) if not word.isdigit() else None


def _splits(
    names: Sequence[str], table: LabelTable | None, layout: FolderLayout
) -> tuple[list[str], str]:
    """The split of each image, and in words what decided it."""
    folders, _ = _split_folders(names)
    keys = list(names)
    if layout.group is not None:
        if table is None:
            raise ValueError("group: there is no table that could have such a column")
        # Where the cell is blank nobody knows the group: these images are not one.
        keys = [cell or name for cell, name in zip(table[layout.group], names, strict=True)]
    if layout.split is not None:
        if table is None:
            raise ValueError("split: there is no table that could have such a column")
        found, by = table.splits(layout.split), f"column {layout.split}"
    elif folders is not None:
        found, by = folders, "the folders' names"
    else:
        by = "a hash of " + (layout.group or "the name") + " (80, 10 and 10 of a hundred)"
        return [hashed_split(key) for key in keys], by
    if "valid" not in found:
        # Of the training images a tenth, chosen by their names.
        found = [
            "valid" if split == "train" and hashed_split(key, (0.9, 0.1)) == "valid" else split
            for split, key in zip(found, keys, strict=True)
        ]
        by += "; a tenth of the training images validates"
    return found, by
