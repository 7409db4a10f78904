"""A table of labels for a folder of images: CSV or TSV, one row an image."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcam._util.names import composed, printable
from fastcam.data.tables import SPLITS, not_utf8, text_lines

#: What stands for a label that is there, and for one that is not, in any case.
PRESENT = frozenset(["1", "1.0", "true", "yes"])
ABSENT = frozenset(["0", "0.0", "-1", "-1.0", "false", "no"])
_ZEROS = (("0", "0.0"), ("-1", "-1.0"))
#: Words for the splits, in any case; the numbers are CelebA's.
SPLIT_WORDS = {
    "train": "train", "training": "train", "0": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "validate": "valid", "dev": "valid",
    "1": "valid",
    "test": "test", "testing": "test", "2": "test",
}  # fmt: skip
#: Where nobody says which split an image is in: the shares of training and validation images.
SHARES = (0.8, 0.1)


@dataclass(frozen=True)
class LabelTable:
    """The cells of a table with a header, as text.

    Attributes:
        path: the file.
        columns: their names.
        rows: cells by row, as many in each as there are columns.
        lines: the line of the file that each row ends in, counted from 1.
    """

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def __getitem__(self, column: str) -> list[str]:
        """The cells of a column.

        Raises:
            ValueError: there is none of that name; the message lists the names. Or a cell is not
                UTF-8; the message names its line.
        """
        found = self.raw(column)
        for cell, line in zip(found, self.lines, strict=True):
            if wrong := not_utf8(cell):
                raise ValueError(f"{self.path}, line {line}, {column}: {wrong}")
        return found

    def raw(self, column: str) -> list[str]:
        """The cells of a column in any encoding, as the names of files may be.

        Raises:
            ValueError: there is none of that name; the message lists the names.
        """
        if column not in self.columns:
            raise ValueError(
                f"{self.path} has no column {column!r}; it has: {', '.join(self.columns)}"
            )
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def flags(self, column: str) -> np.ndarray:
        """A column of 0 and 1 (or −1 and 1, true and false, yes and no): bool [N].

        Raises:
            ValueError: another cell, or both 0 and −1, of which one may mean that nobody knows; the
                message names the line.
        """
        cells = [cell.lower() for cell in self[column]]
        for cell, line in zip(cells, self.lines, strict=True):
            if cell not in PRESENT and cell not in ABSENT:
                raise ValueError(
                    f"{self.path}, line {line}, {column}: expected 0 or 1, got {cell!r}"
                )
        absent = [next((i for i, c in enumerate(cells) if c in kind), -1) for kind in _ZEROS]
        if min(absent) >= 0:
            raise ValueError(
                f"{self.path}, line {self.lines[max(absent)]}, {column}: expected 0 and 1, or -1"
                " and 1, got both 0 and -1 (leave out the images of which nobody knows; of three"
                f" classes it is `--classes {column}`)"
            )
        return np.array([cell in PRESENT for cell in cells], bool)

    def splits(self, column: str) -> list[str]:
        """A column that says train, valid or test.

        Raises:
            ValueError: another cell; the message names its line.
        """
        found = []
        for cell, line in zip(self[column], self.lines, strict=True):
            if cell.lower() not in SPLIT_WORDS:
                raise ValueError(
                    f"{self.path}, line {line}, {column}: expected train, valid or test,"
                    f" got {cell!r}"
                )
            found.append(SPLIT_WORDS[cell.lower()])
        return found


def read_label_table(path: str | Path) -> LabelTable:
    """Read a table: a header, then a row an image; commas, semicolons or tabs between the cells.

    Quotes, line ends and byte-order marks are as in any CSV. The text is UTF-8, but for the names
    of files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no table, a header that is not UTF-8, or a row with more or fewer cells than the
            header; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"table {path} does not exist")
    lines = text_lines(path)
    if not lines:
        raise ValueError(f"{path} is empty; expected a header and a row for each image")
    mark = max("\t;,", key=next(filter(str.strip, lines), "").count)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark)
    columns: list[str] = []
    rows, numbers, before = [], [], 0
    limit = csv.field_size_limit(sys.maxsize)  # polygons and run-length masks may be long
    try:
        for cells in reader:
            first, before = before + 1, reader.line_num
            torn = len(columns or cells) != len(cells) or before == len(lines)
            if before > first and torn and "".join(lines[first - 1 : before]).count('"') % 2:
                raise ValueError(f'{path}, line {first}: a quote (") is opened and never closed')
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = cells
                if wrong := next(filter(None, map(not_utf8, columns)), None):
                    raise ValueError(f"{path}, line {reader.line_num}: {wrong}")
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(columns)} cells as in the"
                    f" header, got {len(cells)}"
                )
            rows.append(cells)
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    twice = next((c for c in columns if columns.count(c) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}, line 1: two columns are called {twice!r}")
    if not rows:
        raise ValueError(f"{path} has a header and no row")
    return LabelTable(path, columns, rows, numbers)


class Names:
    """Finds images by what a table calls them: the path with or without suffix, and with fewer
    folders at its front or more, as an absolute one has.

    Args:
        names: the images' paths.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = {composed(name): name for name in names}
        # By path, and by the ends of paths, of which two images are enough to be one of several.
        self._paths: dict[str, list[str]] = defaultdict(list)
        self._ends: dict[str, list[str]] = defaultdict(list)
        for name in names:
            path = composed(name)
            for form in {path, bare(path)}:
                self._paths[form].append(name)
                for end in _ends(form):
                    if len(self._ends[end]) < 2:
                        self._ends[end].append(name)

    def find(self, text: str, further: bool = True) -> str | None:
        """The image's path; None for no image, and for one of several.

        Args:
            text: what the table says.
            further: whether it may begin with folders that the path does not have.
        """
        found = self.matches(text, further)
        return found[0] if len(found) == 1 else None

    def matches(self, text: str, further: bool = True) -> list[str]:
        """The images that may be meant; arguments as above. Not all, where they are many."""
        text = composed(text.replace("\\", "/").removeprefix("./"))
        if text in self._exact:
            return [self._exact[text]]
        found = dict.fromkeys(self._ends.get(text, ()))
        if further and text not in self._paths:
            for end in _ends(text):
                found |= dict.fromkeys(self._paths.get(end, ()))
        return [*found]


def _ends(path: str) -> Iterator[str]:
    """A path, and what is left of it without its first folders."""
    while path:
        yield path
        path = path.partition("/")[2]


def bare(name: str) -> str:
    """A path without the suffix."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def one_of_several(cell: str, images: Sequence[str]) -> str:
    """What to say of a cell that may name several images."""
    first, other = map(printable, images[:2])
    return (
        f"{printable(cell)!r} may be {first} or {other}: expected the path in the folder of the"
        " images"
    )


def lost_zeros(cells: Sequence[str], images: Sequence[str]) -> tuple[int, str]:
    """How many cells are the number of an image's name without the zeros at its front, as
    spreadsheets leave it, and what to say of the first."""
    stems = {stem.lstrip("0"): name for name in images if (stem := _stem(name)).isdecimal()}
    found = [c for c in cells if c.isdecimal() and c.lstrip("0") in stems]
    if not found:
        return 0, ""
    name = printable(stems[found[0].lstrip("0")])
    return len(found), (
        f"{found[0]} may be {name} without its zeros, as a spreadsheet takes names for numbers:"
        " expected the names as text"
    )


def _stem(name: str) -> str:
    return bare(name).rpartition("/")[2]


def hashed_split(key: str, shares: tuple[float, float] = SHARES) -> str:
    """A split that depends on a name alone: the same on every machine and in every run.

    Args:
        key: of the image, or of a group of images that belong together.
        shares: of training and of validation images; the rest are for the test.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[0] if place < shares[0] else SPLITS[1] if place < sum(shares) else SPLITS[2]


def name_rows(table: LabelTable, column: str, names: Sequence[str]) -> list[str]:
    """The image of each row.

    Raises:
        ValueError: a row whose image is not there, may be one of several, or is the same as
            another's; the message names the line, and counts how many are missing.
    """
    known, cells = Names(names), table.raw(column)
    found = [known.matches(cell) for cell in cells]
    absent = [i for i, images in enumerate(found) if not images]
    if absent:
        cell = cells[absent[0]]
        wrong = not_utf8(cell) or lost_zeros([cell], names)[1]
        raise ValueError(
            f"{table.path}, line {table.lines[absent[0]]}: there is no image"
            f" {printable(cell)!r} ({len(absent)} of {len(found)} rows have none)"
            + (f"; {wrong}" if wrong else "")
        )
    for cell, images, line in zip(cells, found, table.lines, strict=True):
        if len(images) > 1:
            raise ValueError(f"{table.path}, line {line}: {one_of_several(cell, images)}")
    rows = [images[0] for images in found]
    seen: set[str] = set()
    for name, line in zip(rows, table.lines, strict=True):
        if name in seen:
            raise ValueError(f"{table.path}, line {line}: {printable(name)} is listed twice")
        seen.add(name)
    return rows
