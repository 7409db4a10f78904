"""CelebA's text tables: attributes, partition and five-point landmarks."""

from __future__ import annotations

import codecs
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcam._util.names import composed, printable

ATTRIBUTE_TABLE = "list_attr_celeba.txt"
PARTITION_TABLE = "list_eval_partition.txt"
FIVE_POINT_TABLE = "list_landmarks_align_celeba.txt"
SPLITS = ("train", "valid", "test")
_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")  # not str.isdigit, which holds for ² too
_BLOCK = 128  # rows whose fields are in memory at a time; of all, CelebA's would be a gigabyte
_NAME_COLUMNS = ("image_id", "image", "image_name", "filename", "file_name", "file", "name")


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


_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_lines(path: Path) -> list[str]:
    """The lines of a table; bytes that are not UTF-8 as in the file system's names, for which see
    :func:`not_utf8`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"data folder {path.parent} does not exist")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; the official CelebA layout has it{_elsewhere(path)}"
        )
    data = path.read_bytes()
    mark, encoding = next((m for m in _BYTE_ORDER_MARKS if data.startswith(m[0])), (b"", "utf-8"))
    try:
        # Names of files may be in any encoding: read as the file system's names are in Python.
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        text = data[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text table: {error}") from None
    if "\0" in text:
        raise ValueError(
            f"{path} is not a text table that can be read: it holds zero bytes (packed, a workbook,"
            " or UTF-16 without a byte-order mark?); save it as text in UTF-8"
        )
    # Not str.splitlines: that also parts lines at characters that a name may hold.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\x1a").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def not_utf8(text: str) -> str | None:
    """What is wrong with a text of :func:`text_lines` in which bytes are not UTF-8, else None."""
    # Not read as cp1252, which Excel's "ANSI" is in some countries only: names would be others.
    byte = None
    if not text.isascii():
        byte = next((ord(c) - 0xDC00 for c in text if "\udc80" <= c <= "\udcff"), None)
    if byte is None:
        return None
    return f"the byte 0x{byte:02X} in {printable(text)!r} is not UTF-8; save the table as UTF-8"


def _elsewhere(path: Path) -> str:
    """Where a table that is missing may be instead."""
    csv = path.with_suffix(".csv")
    if csv.is_file():
        return f". {csv.name} is there: rename it to {path.name}, its commas can stay"
    nested = next(path.parent.glob(f"*/{path.name}"), None)
    return "" if nested is None else f". It is in {nested.parent}: name that folder instead"


def _split(line: str, commas: bool) -> list[str]:
    if not commas:
        return line.split()
    return [field.strip("\"'") for field in re.split(r"[\s,;]+", line.strip(" \t,;"))]


def _fits(fields: list[str], columns: int) -> bool:
    return (
        len(fields) == columns + 1
        and not fields[0].endswith((",", ";"))
        and all(_INTEGER.fullmatch(field) for field in fields[1:])
    )


def _has_commas(line: str, columns: int) -> bool:
    """Whether a row stands with commas or semicolons where blanks are expected."""
    return not _fits(_split(line, False), columns) and _fits(_split(line, True), columns)


def _parse_rows(
    path: Path, lines: list[str], first_line: int, columns: int
) -> tuple[list[str], np.ndarray]:
    """Split ``name v1 … vK`` rows; ``first_line`` is the number of ``lines[0]`` in the file."""
    filled = [
        (number, line) for number, line in enumerate(lines, first_line) if line.strip(" \t,;")
    ]
    commas = bool(filled) and _has_commas(filled[0][1], columns)
    if commas:
        warnings.warn(
            f"{path}: commas or semicolons between the fields are read like CelebA's spaces",
            stacklevel=4,
        )
    names: list[str] = []
    blocks = [np.empty((0, columns), np.int32)]
    for start in range(0, len(filled), _BLOCK):
        rows = [(number, _split(line, commas)) for number, line in filled[start : start + _BLOCK]]
        blocks.append(_integers(path, rows, columns))
        names += [composed(fields[0]) for _, fields in rows]
    if len(set(names)) != len(names):
        seen: set[str] = set()
        for (number, _), name in zip(filled, names, strict=True):
            if name in seen:
                raise ValueError(f"{path}, line {number}: {printable(name)} is listed twice")
            seen.add(name)
    return names, np.concatenate(blocks)


def _integers(path: Path, rows: list[tuple[int, list[str]]], columns: int) -> np.ndarray:
    """int32 [N, K]: the values of N rows, each with its line's number."""
    for number, fields in rows:
        if len(fields) != columns + 1:
            raise ValueError(
                f"{path}, line {number}: expected an image name and {columns} values with blanks"
                f" between them (and none in the name), got {len(fields)} fields"
            )
    try:
        wide = np.array([fields[1:] for _, fields in rows], dtype=np.int64)
        values = wide.astype(np.int32)  # numpy 1 would wrap around without a word
        if not np.array_equal(values, wide):
            raise OverflowError
    except (ValueError, OverflowError):
        for number, fields in rows:
            for value in fields[1:]:
                if not _INTEGER.fullmatch(value) or abs(int(value)) >= 2**31:
                    raise ValueError(
                        f"{path}, line {number}: {value!r} is not an integer"
                    ) from None
        raise
    return values


def _read_headed(path: Path) -> Table:
    lines = text_lines(path)
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a count line and a header line, got {len(lines)} lines")
    count = _INTEGER.fullmatch(lines[0].strip(" \t,;"))
    header = 1 if count else 0  # tables in CSV lack the count
    columns = _split(lines[header], any(mark in lines[header] for mark in ",;"))
    below = lines[header + 1] if len(lines) > header + 1 else ""
    if len(columns) > 1 and columns[0].lower() in _NAME_COLUMNS:
        columns = columns[1:]
    elif not count and not (_has_commas(below, len(columns)) or _fits(below.split(), len(columns))):
        raise ValueError(
            f"{path}, line 1: expected the number of rows, got {lines[0].strip()[:40]!r}"
        )
    if not columns:
        raise ValueError(f"{path}, line 2: expected the column names, got an empty line")
    wrong = next(filter(None, map(not_utf8, columns)), None)
    if wrong is not None:
        raise ValueError(f"{path}, line {header + 1}: the column names are not UTF-8: {wrong}")
    if len(set(columns)) != len(columns):
        raise ValueError(f"{path}, line {header + 1}: a column name occurs twice")
    names, values = _parse_rows(path, lines[header + 1 :], header + 2, len(columns))
    if count and len(names) != int(count[0]):
        raise ValueError(
            f"{path}: line 1 announces {int(count[0])} rows, the file holds {len(names)}"
        )
    return Table(names, columns, values)


def read_attributes(path: str | Path) -> Table:
    """Read ``list_attr_celeba.txt``: count line, header line, ``NNNNNN.jpg -1 1 …``.

    Line ends (LF, CRLF, CR), tabs and further blanks do not matter, nor does a byte-order mark of
    UTF-8, UTF-16 or UTF-32. Commas or semicolons between the fields, as in CSV, are read too; such
    a table may lack the count line and call its first column ``image_id``; a warning says so.

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
            f"{path}: {printable(table.names[row])}, {table.columns[column]}: expected -1 or 1,"
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
    lines = text_lines(path)
    first = 1
    if lines and _split(lines[0], True)[0].lower() in _NAME_COLUMNS:  # the header of a CSV
        first = 2
    names, values = _parse_rows(path, lines[first - 1 :], first, 1)
    wrong = ~np.isin(values[:, 0], (0, 1, 2))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: {printable(names[row])}: expected a split 0, 1 or 2, got {values[row, 0]}"
        )
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
