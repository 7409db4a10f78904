"""Finds out where images, labels and regions lie in a folder that no ``fastcam.json`` describes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fastcam._util.names import printable
from fastcam.data.coco import is_coco
from fastcam.data.folder_source import list_images
from fastcam.data.label_table import (
    ABSENT,
    PRESENT,
    SPLIT_WORDS,
    LabelTable,
    Names,
    lost_zeros,
    one_of_several,
    read_label_table,
)
from fastcam.data.layout import CONFIG, IMAGE_FOLDERS, MASK_FOLDERS, FolderLayout
from fastcam.data.mask_files import (
    MaskFiles,
    find_beside,
    find_inside,
    find_masks,
    path_of,
    without_masks,
)
from fastcam.data.source import is_litter
from fastcam.data.tables import not_utf8

_CLASS_COLUMNS = ("class", "label", "category", "species", "diagnosis", "dx", "target", "y")
_SPLIT_COLUMNS = ("split", "partition", "subset", "set", "fold")
_GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id", "site")
_MOST = 0.5  # of a table's cells that must be images for the column to name them
_ASKED = 200  # rows that are asked first
# Numbers in a column of this name are those of a cross-validation, of three parts, too.
_FOLDS = "fold"
# What a column of these names says is which split a row is in, and nothing else.
_SPLITS_ALONE = ("split", "partition")
_SLIPS = 0.1  # of a column's cells that may be others than in all such columns
_BLANK = frozenset(["", "nan", "na", "n/a", "none", "null"])
_PACKED = re.compile(r"\.(zip|tar|tgz|7z|rar|tar\.[a-z0-9]+)$", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")


def find_layout(
    root: str | Path,
    *,
    without: Collection[str | Path] = (),
    **given: str | tuple[str, ...] | None,
) -> FolderLayout:
    """Find out where everything lies in a folder.

    Args:
        root: the folder.
        without: folders in it that hold no images, as those of masks.
        given: fields of :class:`FolderLayout` that are known (``regions`` apart).

    Raises:
        ValueError: there are no images, or their labels cannot be told; the message says what to
            name. A column of splits or of 0 and 1 in which a few cells are something else; the
            message names the line.
    """
    root = Path(root)
    known: dict[str, Any] = {name: value for name, value in given.items() if value}
    images = known.get("images") or _image_folder(root)
    masks = [name for name in _folders_called(root, MASK_FOLDERS) if name != images]
    names = list_images(root / images, [*(root / name for name in masks), *without])
    if not names:
        packed = next((p.name for p in sorted(root.iterdir()) if _PACKED.search(p.name)), None)
        raise ValueError(
            f"{root} holds no images: expected them in {IMAGE_FOLDERS[0]}/ (or name the folder)"
            + (f"; unpack {printable(packed)}" if packed else "")
        )
    regions = find_beside(root, images, names) | find_inside(images, names)
    names = without_masks(names, images, regions.values())
    found: dict[str, Any] = {"images": images, **known}
    if "table" not in known and "coco" not in known:
        tables = find_tables(root)
        if len(tables) > 1:
            listed = ", ".join(p.name for p in tables)
            raise ValueError(f"{root} holds several tables: name the one with labels ({listed})")
        found["table"] = tables[0].name if tables else None
    if "coco" not in known:
        found["coco"] = _annotations(root)
    if found.get("table"):
        found |= _columns(read_label_table(root / found["table"]), names, known)
    if not found["coco"]:
        for place in masks:
            regions |= find_masks(root, place, names)
    return FolderLayout(**found, regions=regions)


def place_of(root: str | Path, regions: str | Path) -> Path:
    """A folder of masks or a file in COCO's format, relative to the data folder or to where the
    program runs.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    root = Path(root)
    where = next((p for p in (root / regions, Path(regions)) if p.exists()), None)
    if where is None:
        raise FileNotFoundError(f"regions: neither {root / regions} nor {regions} exists")
    return where


def find_regions(
    root: str | Path, layout: FolderLayout, where: Path, names: Sequence[str]
) -> FolderLayout:
    """The layout with other regions.

    Args:
        root: the data folder.
        layout: of it.
        where: see :func:`place_of`.
        names: the images' paths.

    Raises:
        ValueError: no file in it is named after an image.
    """
    root = Path(root)
    # Relative to the data folder where it lies in it or beside it, so that both can be moved.
    inner, above = where.resolve(), root.resolve()
    if inner.is_relative_to(above.parent):
        inner = Path(os.path.relpath(inner, above))
    if where.is_file():
        return dataclasses.replace(layout, regions={}, coco=(inner.as_posix(),))
    masks = find_masks(root, inner.as_posix(), names)
    if not masks:
        raise ValueError(
            f"regions: no file in {where} is named after an image: expected, for {names[0]},"
            f" {Path(names[0]).stem}.png, {Path(names[0]).stem}_NAME.png, or that in a folder NAME"
        )
    return dataclasses.replace(layout, regions=masks, coco=())


def keep_regions(
    root: str | Path, layout: FolderLayout, before: FolderLayout, names: Sequence[str], named: bool
) -> FolderLayout:
    """The layout with those regions of an earlier one that are not found by looking: a person may
    have named them, and the values of a label map have no other place.

    Args:
        root: the data folder.
        layout: what was found.
        before: what ``fastcam.json`` says.
        names: the images' paths.
        named: whether the place of the masks was named: regions that lie elsewhere go.
    """
    root, found, kept = Path(root).resolve(), dict(layout.regions), {}
    places = {_place(root, pattern) for pattern in found.values()}
    for region, pattern in before.regions.items():
        valued = pattern != path_of(pattern)
        here = _place(root, pattern) in places
        source = MaskFiles(root, {region: pattern})
        if (valued if here else not named and (valued or region not in found)) and any(
            source.has(name, region) for name in names
        ):
            kept[region] = pattern
    taken = {_place(root, pattern) for pattern in kept.values()}
    found = {r: p for r, p in found.items() if r not in kept and _place(root, p) not in taken}
    return dataclasses.replace(layout, regions=dict(sorted({**found, **kept}.items())))


def _place(root: Path, pattern: str) -> str:
    return os.path.normpath(root / path_of(pattern))


def find_tables(root: Path) -> list[Path]:
    """The tables in a folder, sorted."""
    return sorted(
        p for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv") and not is_litter(p.name)
    )


def _image_folder(root: Path) -> str:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    return next(iter(_folders_called(root, IMAGE_FOLDERS)), ".")


def _folders_called(root: Path, names: Sequence[str]) -> list[str]:
    """The folders in a folder that have one of some names, in any case, in the order of these."""
    found = [p.name for p in root.iterdir() if p.name.lower() in names and p.is_dir()]
    return sorted(found, key=lambda name: (names.index(name.lower()), name != name.lower(), name))


def _annotations(root: Path) -> tuple[str, ...]:
    """The files in COCO's format in a folder and the folders in it."""
    paths = sorted(
        p for pattern in ("*.json", "*/*.json") for p in root.glob(pattern) if p.name != CONFIG
    )
    return tuple(p.relative_to(root).as_posix() for p in paths if is_coco(p))


def _columns(table: LabelTable, names: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """What a table's columns are, as far as nobody says it."""
    found: dict[str, Any] = {}
    if "file" not in known:
        found["file"] = _file_column(table, names)
    taken = {found.get("file"), *(known.get(k) for k in ("file", "classes", "split", "group"))}
    left = [c for c in table.columns if c not in taken]
    if "split" not in known:
        found["split"] = _split_column(table, left)
    if "group" not in known:
        found["group"] = next((c for c in left if c.lower() in _GROUP_COLUMNS), None)
    others = (found.get("split"), found.get("group"))
    left = [c for c in left if c not in others and c.lower() != _FOLDS]
    if "labels" in known or "classes" in known:
        return found
    flags = [c for c in left if _are(table, c, PRESENT | ABSENT)]
    for column in left:
        if _slips(table, column, PRESENT | ABSENT):
            try:
                table.flags(column)
            except ValueError as error:
                raise ValueError(
                    f"{error} (or name its columns of 0 and 1, or its column of classes)"
                ) from None
    if flags:
        return {**found, "labels": tuple(flags)}
    classes = [c for c in left if c.lower() in _CLASS_COLUMNS] or left
    if len(classes) != 1:
        raise ValueError(
            f"{table.path}: name its columns of 0 and 1, or its column of classes; it has:"
            f" {', '.join(table.columns)}"
        )
    return {**found, "classes": classes[0]}


def _file_column(table: LabelTable, names: Sequence[str]) -> str:
    """The column that names the images.

    Raises:
        ValueError: none does; the message says so of names that may be of several images.
    """
    images = Names(names)

    least = _MOST * len(table.rows)
    # A column of which none of these names an image names few: tables may have thousands.
    some = table.rows[:: len(table.rows) // _ASKED + 1]

    def best(once: bool, further: bool) -> str | None:
        found = {}
        for place, column in enumerate(table.columns):
            if not any(images.find(row[place], further) for row in some):
                continue
            cells = Counter(table.raw(column))
            hits = {cell: name for cell in cells if (name := images.find(cell, further))}
            count = len({*hits.values()}) if once else sum(cells[cell] for cell in hits)
            if count > least:
                # Where images are called 0, 1, … a column that only counts the rows fits, too, as
                # does the index of pandas, which has no name.
                found[column] = not _counts_rows(table, column), column != "", count
        return max(found, key=lambda c: found[c]) if found else None

    # Each image counted once, as images may be called 0 and 1; longer paths last, as those of masks
    # end like those of images. A table with images twice is refused by who reads it.
    for once, further in ((True, False), (True, True), (False, False), (False, True)):
        column = best(once, further)
        if column is not None:
            return column
    message = (
        f"{table.path}: no column names the images ({printable(names[0])}, …); it has:"
        f" {', '.join(table.columns)}"
    )
    zeros = {c: lost_zeros(table.raw(c), names) for c in table.columns}
    column = max(zeros, key=lambda c: zeros[c][0])
    if zeros[column][0] > least:
        raise ValueError(f"{message}; in {column}, {zeros[column][1]}")
    for column in table.columns:
        if wrong := next(filter(None, map(not_utf8, table.raw(column))), None):
            raise ValueError(f"{message}; in {column}, {wrong}")
    for column in table.columns:
        found = [(cell, images.matches(cell)) for cell in table.raw(column)]
        several = [(cell, of) for cell, of in found if len(of) > 1]
        if len(several) > _MOST * len(table.rows):
            message += f"; in {column}, {one_of_several(*several[0])}"
            break
    else:
        hits = {c: sum(map(bool, map(images.find, table.raw(c)))) for c in table.columns}
        column = max(hits, key=hits.__getitem__)
        if hits[column]:
            message += f"; {column} does in {hits[column]} of {len(table.rows)} rows: expected a"
            message += " table without the rows of images that are not there"
    raise ValueError(message)


def _counts_rows(table: LabelTable, column: str) -> bool:
    """Whether a column holds the rows' numbers, from 0 or from 1."""
    cells = table.raw(column)
    return any(cells == [*map(str, range(s, s + len(cells)))] for s in (0, 1))


def _split_column(table: LabelTable, columns: Sequence[str]) -> str | None:
    """The column that says train, valid or test.

    Raises:
        ValueError: a column of that name in which some cells say it, or nearly all, or that can
            say nothing else, and others do not; the message names the line of the first.
    """
    named = [c for c in columns if c.lower() in _SPLIT_COLUMNS]
    words = {word for word in SPLIT_WORDS if not word.isdigit()}  # numbers may be those of folds
    known = {c: words if c.lower() == _FOLDS else {*SPLIT_WORDS} for c in named}
    whole = next((c for c in named if _are(table, c, known[c])), None)
    for column in named:
        says_it = any(cell.lower() in words for cell in table.raw(column))
        alone = whole is None and column.lower() in _SPLITS_ALONE
        if says_it or alone or _slips(table, column, known[column]):
            try:
                table.splits(column)
            except ValueError as error:
                raise ValueError(
                    f"{error} (or name the column of splits; rename this one if it is none)"
                ) from None
    return whole


def _are(table: LabelTable, column: str, words: Collection[str]) -> bool:
    return all(cell.lower() in words for cell in {*table.raw(column)})


def _slips(table: LabelTable, column: str, words: Collection[str]) -> bool:
    """Whether so few cells of a column are other than some words that they are mistakes.

    Of other numbers that is one at most, as several are counts, folds or classes; in a short table
    one blank cell is few, too.
    """
    odd = [cell for cell in map(str.lower, table.raw(column)) if cell not in words]
    few = _SLIPS * len(table.rows)
    if not 0 < len(odd) <= max(1, few) or len(table.rows) < 3:
        return False
    filled = [cell for cell in odd if cell not in _BLANK]
    return len(filled) <= few and sum(_NUMBER.fullmatch(cell) is not None for cell in filled) <= 1
