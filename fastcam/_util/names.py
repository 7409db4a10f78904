"""Names as they come: lists of them, close ones, and those of images in tables and messages."""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections.abc import Iterable, Sequence


def parts(text: str) -> tuple[str, ...]:
    """The names of a text with commas between, without blanks around them and empty ones.

    One that holds a comma stands in double quotes, as in a CSV.
    """
    (cells,) = csv.reader([" ".join(text.splitlines())], skipinitialspace=True)
    return tuple(name for cell in cells if (name := cell.strip()))


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """`` (did you mean 'x' or 'y'?)`` where known names are close, else nothing; for messages."""
    close = difflib.get_close_matches(name, list(known), most)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def composed(name: str) -> str:
    """A name with composed accents (Unicode NFC): macOS stores them apart, tables do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A file name for messages and captions: bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def absent_images(place: str, missing: Sequence[str], table: str, present: Iterable[str]) -> str:
    """What to say of images that a table lists and a folder or zip does not hold."""
    text = f"{place} misses {len(missing)} images of {table}, for example {printable(missing[0])}"
    stem = _stem(missing[0])
    for name in present:
        if _stem(name) == stem:
            return f"{text} (there is {printable(name)}: the table must name the files as they are)"
    return text


def _stem(name: str) -> str:
    """The name without folders, suffix and case."""
    return name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0].lower()
