"""Finds out where images, labels and regions lie in a folder that no ``fastcam.json`` describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastcam.data.coco import is_coco
from fastcam.data.folder_source import list_images
from fastcam.data.label_table import (
    ABSENT,
    PRESENT,
    SPLIT_WORDS,
    LabelTable,
    Names,
    read_label_table,
)
from fastcam.data.layout import CONFIG, FolderLayout
from fastcam.data.mask_files import find_masks

IMAGE_FOLDERS = ("images", "imgs", "img", "image", "photos", "JPEGImages", "data")
MASK_FOLDERS = ("masks", "mask", "segmentations", "segmentation", "regions", "annotations")
_CLASS_COLUMNS = ("class", "label", "category", "species", "diagnosis", "dx", "target", "y")
_SPLIT_COLUMNS = ("split", "partition", "subset", "set", "fold")
_GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id", "site")
_MOST = 0.5  # of a table's cells that must be images for the column to name them


def find_layout(root: str | Path, **given: str | tuple[str, ...] | None) -> FolderLayout:
    """Find out where everything lies in a folder.

    Args:
        root: the folder.
        given: fields of :class:`FolderLayout` that are known (``regions`` apart).

    Raises:
        ValueError: there are no images, or their labels cannot be told; the message says what to
            name.
    """
    root = Path(root)
    known: dict[str, Any] = {name: value for name, value in given.items() if value}
    images = known.get("images") or _image_folder(root)
    masks = [root / name for name in MASK_FOLDERS if images == "." or name != images]
    names = list_images(root / images, masks)
    if not names:
        raise ValueError(
            f"{root} holds no images: expected them in {IMAGE_FOLDERS[0]}/ (or name the folder)"
        )
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
    regions: dict[str, str] = {}
    if not found["coco"]:
        for place in MASK_FOLDERS:
            if (root / place).is_dir() and place != images:
                regions |= find_masks(root, place, names)
    return FolderLayout(**found, regions=regions)


def find_regions(
    root: str | Path, layout: FolderLayout, place: str | Path, names: Sequence[str]
) -> FolderLayout:
    """The layout with other regions.

    Args:
        root: the data folder.
        layout: of it.
        place: a folder of masks or a file in COCO's format, relative to where the program runs or
            to the data folder.
        names: the images' paths.

    Raises:
        FileNotFoundError: there is no such place.
        ValueError: no file in it is named after an image.
    """
    root = Path(root)
    where = next((p for p in (root / place, Path(place)) if p.exists()), None)
    if where is None:
        raise FileNotFoundError(f"regions: neither {root / place} nor {place} exists")
    # Relative to the data folder where it lies in it, so that the folder can be moved.
    inner = where.resolve()
    if inner.is_relative_to(root.resolve()):
        inner = inner.relative_to(root.resolve())
    if where.is_file():
        return dataclasses.replace(layout, regions={}, coco=(inner.as_posix(),))
    masks = find_masks(root, inner.as_posix(), names)
    if not masks:
        raise ValueError(
            f"regions: no file in {where} is named after an image: expected, for {names[0]},"
            f" {Path(names[0]).stem}.png, {Path(names[0]).stem}_NAME.png, or that in a folder NAME"
        )
    return dataclasses.replace(layout, regions=masks, coco=())


def find_tables(root: Path) -> list[Path]:
    """The tables in a folder, sorted."""
    return sorted(p for end in ("csv", "tsv") for p in root.glob(f"*.{end}"))


def _image_folder(root: Path) -> str:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    return next((name for name in IMAGE_FOLDERS if (root / name).is_dir()), ".")


def _annotations(root: Path) -> tuple[str, ...]:
    """The files in COCO's format in a folder and the folders in it."""
    paths = sorted(
        p for pattern in ("*.json", "*/*.json") for p in root.glob(pattern) if p.name != CONFIG
    )
    return tuple(p.relative_to(root).as_posix() for p in paths if is_coco(p))


def _columns(table: LabelTable, names: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """What a table's columns are, as far as nobody says it."""
    images, taken = Names(names), set()
    found: dict[str, Any] = {}
    if "file" not in known:
        hits = {c: sum(images.find(cell) is not None for cell in table[c]) for c in table.columns}
        best = max(table.columns, key=lambda c: hits[c])
        if hits[best] <= _MOST * len(table.rows):
            raise ValueError(
                f"{table.path}: no column names the images ({names[0]}, …); it has:"
                f" {', '.join(table.columns)}"
            )
        found["file"] = best
    taken |= {found.get("file"), *(known.get(k) for k in ("file", "classes", "split", "group"))}
    left = [c for c in table.columns if c not in taken]
    if "split" not in known:
        words = [
            c for c in left
            if c.lower() in _SPLIT_COLUMNS and {x.lower() for x in table[c]} <= set(SPLIT_WORDS)
        ]  # fmt: skip
        found["split"] = words[0] if words else None
    if "group" not in known:
        found["group"] = next((c for c in left if c.lower() in _GROUP_COLUMNS), None)
    left = [c for c in left if c not in (found.get("split"), found.get("group"))]
    if "labels" in known or "classes" in known:
        return found
    flags = [c for c in left if {x.lower() for x in table[c]} <= PRESENT | ABSENT]
    if flags:
        return {**found, "labels": tuple(flags)}
    classes = [c for c in left if c.lower() in _CLASS_COLUMNS] or left
    if len(classes) != 1:
        raise ValueError(
            f"{table.path}: name its columns of 0 and 1, or its column of classes; it has:"
            f" {', '.join(table.columns)}"
        )
    return {**found, "classes": classes[0]}
