"""CelebA's text tables: attributes, partition and five-point landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

ATTRIBUTE_TABLE = "list_attr_celeba.txt"
PARTITION_TABLE = "list_eval_partition.txt"
FIVE_POINT_TABLE = "list_landmarks_align_celeba.txt"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """Rows of integers, one per image.

    Attributes:
        names: image file names, N of them.
        columns: column names, K of them.
        values: int32 [N, K].
    """

    names: list[str]
    columns: list[str]
    values: np.ndarray


def _lines(path: Path) -> list[str]:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"data folder {path.parent} does not exist")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the official CelebA layout has it")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text table: {error}") from None


def _parse_rows(
    path: Path, lines: list[str], first_line: int, columns: int
) -> tuple[list[str], np.ndarray]:
    """Split ``name v1 … vK`` rows; ``first_line`` is the number of ``lines[0]`` in the file."""
    rows = [(number, line.split()) for number, line in enumerate(lines, first_line) if line.strip()]
    for number, fields in rows:
        if len(fields) != columns + 1:
            raise ValueError(
                f"{path}, line {number}: expected an image name and {columns} values,"
                f" got {len(fields)} fields"
            )
    names = [fields[0] for _, fields in rows]
    try:
        values = np.array([fields[1:] for _, fields in rows], dtype=np.int32).reshape(
            len(rows), columns
        )
    except (ValueError, OverflowError):
        for number, fields in rows:
            for value in fields[1:]:
                if not value.lstrip("+-").isdigit() or len(value) > 10:
                    raise ValueError(
                        f"{path}, line {number}: {value!r} is not an integer"
                    ) from None
        raise
    if len(set(names)) != len(names):
        seen: set[str] = set()
        for number, fields in rows:
            if fields[0] in seen:
                raise ValueError(f"{path}, line {number}: {fields[0]} is listed twice")
            seen.add(fields[0])
    return names, values


def _read_headed(path: Path) -> Table:
    lines = _lines(path)
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a count line and a header line, got {len(lines)} lines")
    if not lines[0].strip().isdigit():
        raise ValueError(
            f"{path}, line 1: expected the number of rows, got {lines[0].strip()[:40]!r}"
        )
    columns = lines[1].split()
    if not columns:
        raise ValueError(f"{path}, line 2: expected the column names, got an empty line")
    if len(set(columns)) != len(columns):
        raise ValueError(f"{path}, line 2: a column name occurs twice")
    names, values = _parse_rows(path, lines[2:], 3, len(columns))
    if len(names) != int(lines[0]):
        raise ValueError(
            f"{path}: line 1 announces {int(lines[0])} rows, the file holds {len(names)}"
        )
    return Table(names, columns, values)


def read_attributes(path: str | Path) -> Table:
    """Read ``list_attr_celeba.txt``: count line, header line, ``NNNNNN.jpg -1 1 …`` (LF or CRLF).

    Returns:
        The table with values 0 (absent, −1 in the file) and 1 (present).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed table; the message names file and line.
    """
    path = Path(path)
    table = _read_headed(path)
    wrong = ~np.isin(table.values, (-1, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{path}: {table.names[row]}, {table.columns[column]}: expected -1 or 1,"
            f" got {table.values[row, column]}"
        )
    return Table(table.names, table.columns, (table.values > 0).astype(np.int32))


def read_partition(path: str | Path) -> dict[str, int]:
    """Read ``list_eval_partition.txt``: ``NNNNNN.jpg 0|1|2`` for train, valid and test.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed table; the message names file and line.
    """
    path = Path(path)
    names, values = _parse_rows(path, _lines(path), 1, 1)
    wrong = ~np.isin(values[:, 0], (0, 1, 2))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{path}: {names[row]}: expected a split 0, 1 or 2, got {values[row, 0]}")
    return dict(zip(names, values[:, 0].tolist(), strict=True))


def read_five_points(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``list_landmarks_align_celeba.txt``: ten integers an image, x and y of five points.

    Returns:
        Image name to float32 [5, 2] in pixels, in CelebA's order (lefteye, righteye, nose,
        leftmouth, rightmouth).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed table; the message names file and line.
    """
    path = Path(path)
    table = _read_headed(path)
    if len(table.columns) != 10:
        raise ValueError(
            f"{path}, line 2: expected 10 columns (x and y of five points),"
            f" got {len(table.columns)}"
        )
    points = table.values.astype(np.float32).reshape(-1, 5, 2)
    return dict(zip(table.names, points, strict=True))
