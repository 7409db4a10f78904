"""A data set whose training images are those on which two attributes agree."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastcam._util.files import make_folder, write_text
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.data.source import FOLDER
from fastcam.data.tables import (
    ATTRIBUTE_TABLE,
    FIVE_POINT_TABLE,
    PARTITION_TABLE,
    read_attributes,
    read_partition,
)


def agreeing(data: str | Path, out: str | Path, a: str, b: str) -> Path:
    """Write a folder in CelebA's layout without the training images on which a and b part.

    Images and landmarks are links to those of ``data``; validation and test images stay as they
    are.

    Args:
        data: folder in CelebA's layout.
        out: folder to write.
        a, b: attributes.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: a part of the layout is missing.
        ValueError: an attribute that the data lack.
    """
    data, out = Path(data).resolve(), make_folder(out)
    if not (data / ATTRIBUTE_TABLE).is_file():
        raise ValueError(f"bias takes data in CelebA's layout; {data} has no {ATTRIBUTE_TABLE}")
    table = read_attributes(data / ATTRIBUTE_TABLE)
    partition = read_partition(data / PARTITION_TABLE)
    lost = [name for name in (a, b) if name not in table.columns]
    if lost:
        raise ValueError(f"{data} has no attribute {lost[0]!r}")
    columns = [table.columns.index(name) for name in (a, b)]
    splits = np.array([partition[name] for name in table.names])
    part = table.values[:, columns[0]] != table.values[:, columns[1]]
    kept = np.flatnonzero(~(part & (splits == 0)))
    signs = np.where(table.values > 0, " 1", "-1")
    rows = [f"{table.names[i]} {' '.join(signs[i])}" for i in kept]
    lines = [str(len(kept)), " ".join(table.columns), *rows]
    for name in (FOLDER, f"{FOLDER}.zip", LANDMARK_TABLE, FIVE_POINT_TABLE):
        there, link = data / name, out / name
        if link.is_symlink() and os.readlink(link) != str(there):  # both may have moved
            link.unlink()
        if there.exists() and not link.exists():
            os.symlink(there, link)
    split_rows = [f"{table.names[i]} {splits[i]}" for i in kept]
    write_text(out / PARTITION_TABLE, "\n".join(split_rows) + "\n")
    write_text(out / ATTRIBUTE_TABLE, "\n".join(lines) + "\n")
    return out
