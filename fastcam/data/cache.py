"""Decoded images, kept in memory or in a file that every run maps.

The file is mapped read-only through numpy. torch can map a file for writing (a stray write then
changes the images of every run, and the folder must be writable), or privately, which the kernel
counts as memory that may be needed, so that it refuses a mapping larger than the memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcam._util.claim import LOCK, InUseError, claim
from fastcam._util.files import (
    WriteError,
    cannot_write,
    describe,
    json_with,
    read_json,
    write_json,
)
from fastcam._util.progress import Count

FOLDER = ".fastcam-cache"
#: Names another folder for the caches of all data than the one in each data folder.
VARIABLE = "FASTCAM_CACHE"
_FORMAT = 1
_INFO, _PIXELS, _RECORDS = "cache.json", "images.u8", "records"
_ours = json_with("images", "files", "format")
#: What is known of an image: the stamp of the file that it was decoded from (0: it is missing), the
#: CRC-32 of its pixels, and the stored image's width and height. 32 bytes, so that none lies across
#: two pages and a killed process leaves it whole or not at all.
_RECORD = np.dtype(
    [("stamp", "<u8"), ("crc", "<u4"), ("width", "<u4"), ("height", "<u4"), ("rest", "<u4", 3)]
)
_WINDOW = 1024  # images that wait for a thread at a time
_ADVICE = (
    f"name a folder elsewhere in the environment variable {VARIABLE}, or do without (--no-cache)"
)
_POLL = 0.3  # seconds between two looks at what another process has decoded

Rows = NDArray[np.int64]


class Decoded(NamedTuple):
    """An image as it is kept, uint8 [C, S, S], and width and height of the stored one."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


#: Decodes the image at a position.
Decode = Callable[[int], Decoded]


class MemoryCache:
    """Decoded images in memory, by position.

    Args:
        decode: called with a position, from several threads.
        count: positions.
        size: side length of the images in pixels.
        channels: C, of an image and what is kept with it.
    """

    def __init__(self, decode: Decode, count: int, size: int, channels: int = 3) -> None:
        self._decode, self._shape = decode, (count, channels, size, size)
        self._pixels: NDArray[np.uint8] = np.empty(self._shape, np.uint8)
        self._records: NDArray[Any] = np.zeros(count, _RECORD)

    def fill(self, workers: int = 2, progress: Count | None = None) -> None:
        """Decode every image, in ``workers`` threads.

        Raises:
            Exception: what ``decode`` raises.
        """

        def load(row: int) -> None:
            image = self._decode(row)
            self._pixels[row] = image.pixels
            self._records[row] = (0, 0, image.width, image.height, 0)

        _in_threads(load, np.arange(len(self._records)), len(self._records), workers, progress)

    def images(self, rows: Sequence[int] | Rows) -> NDArray[np.uint8]:
        """Copies of the images at N positions: uint8 [N, C, S, S]."""
        return self._pixels[np.asarray(rows, np.int64)]

    def sizes(self, rows: Sequence[int] | Rows) -> NDArray[np.int64]:
        """Width and height of the stored images at N positions: int64 [N, 2]."""
        known = self._records[np.asarray(rows, np.int64)]
        return np.stack([known["width"], known["height"]], -1).astype(np.int64)


class FileCache(MemoryCache):
    """Decoded images in a file, which is mapped: what is read is held by the system, once for all
    processes, as long as there is memory for it.

    There is a place for every image of a source; those that a run needs and nobody has decoded are
    added by :meth:`fill`. An image whose file has changed since is decoded again, and so is one
    whose pixels differ from their checksum, which is compared when a process first reads it. A
    killed process loses nothing but the images it was about to write.

    Args:
        folder: of this cache alone, see :func:`cache_folder`.
        info: written there for people, and to tell which caches are out of date.
        decode, count, size, channels: as for :class:`MemoryCache`.
    """

    def __init__(
        self,
        folder: Path,
        info: Mapping[str, Any],
        decode: Decode,
        count: int,
        size: int,
        channels: int = 3,
    ) -> None:
        self._decode, self._shape = decode, (count, channels, size, size)
        self._bytes = channels * size * size
        self.folder, self._info = folder, dict(info)
        self._stamps = np.zeros(count, np.uint64)
        self._checked = np.zeros(count, bool)
        self._cut = False  # whether the file has become shorter since it was mapped

    def fill_rows(
        self,
        rows: Rows,
        stamps: NDArray[np.uint64],
        *,
        share: float = 1.0,
        workers: int = 2,
        progress: Count | None = None,
    ) -> None:
        """Decode those of some images that are missing, and map the file.

        One process decodes at a time; others wait for it, and go on in its place if it ends early.

        Args:
            rows: positions.
            stamps: of their files, see :meth:`fastcam.data.ImageSource.stamps`.
            share: of the free disk space that may be taken.
            workers: threads.
            progress: called with (done, total).

        Raises:
            WriteError: there is not enough room, or the folder cannot be written, or read.
            Exception: what ``decode`` raises.
        """
        try:
            self._fill_rows(rows, stamps, share, workers, progress)
        except WriteError as error:
            said = str(error) if VARIABLE in str(error) else f"{error}; {_ADVICE}"
            raise WriteError(error.errno, said) from None

    def _fill_rows(
        self,
        rows: Rows,
        stamps: NDArray[np.uint64],
        share: float,
        workers: int,
        progress: Count | None,
    ) -> None:
        self._stamps[rows] = stamps
        while len(missing := self._missing(rows)):
            try:
                with claim(self.folder):
                    missing = self._missing(rows)
                    self._make(len(missing), share)
                    self._decode_missing(missing, len(rows), workers, progress)
            except InUseError:
                if progress is not None:
                    progress(len(rows) - len(missing), len(rows))
                time.sleep(_POLL)
        if (self.folder / LOCK).exists():  # of a process that was killed when it was done
            with contextlib.suppress(OSError), claim(self.folder):
                pass
        self._map()

    def images(self, rows: Sequence[int] | Rows) -> NDArray[np.uint8]:
        """Copies of the images at N positions: uint8 [N, C, S, S].

        Raises:
            Exception: what ``decode`` raises, of an image that was damaged in the file.
        """
        rows = np.asarray(rows, np.int64)
        # Reading what was cut off would end the process; once the file was, its end may be zeros.
        if self._cut or self._mapped.size() < len(self._mapped):
            self._warn_of_cut()
            empty = np.empty((0, *self._shape[1:]), np.uint8)
            return np.stack([self._decode(int(row)).pixels for row in rows]) if len(rows) else empty
        if hasattr(mmap, "MADV_WILLNEED"):  # read all from the disk at once, not one by one
            for row in rows.tolist():
                begin = row * self._bytes
                page = begin - begin % mmap.PAGESIZE
                self._mapped.madvise(mmap.MADV_WILLNEED, page, begin + self._bytes - page)
        found = self._pixels[rows]
        for i in np.flatnonzero(~self._checked[rows]).tolist():
            row = int(rows[i])
            if zlib.crc32(found[i]) != self._records[row]["crc"]:
                found[i] = self._restored(row)
            self._checked[row] = True
        return found

    def _warn_of_cut(self) -> None:
        if not self._cut:
            self._cut = True
            warnings.warn(
                f"{self.folder / _PIXELS} was cut off by another program; images are decoded again"
                " in every epoch, until the next run",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_mapped", "_pixels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_records" in state:
            self._map()

    def _missing(self, rows: Rows) -> Rows:
        """Those of some positions that nobody has decoded, or from another file."""
        try:
            with _told():
                known = np.fromfile(self.folder / _RECORDS, _RECORD)
                whole = (self.folder / _PIXELS).stat().st_size == len(known) * self._bytes
        except (FileNotFoundError, NotADirectoryError):  # or a file lies in its way
            return rows
        if not whole or len(known) != len(self._stamps):
            return rows
        return rows[known["stamp"][rows] != self._stamps[rows]]

    def _make(self, count: int, share: float) -> None:
        """Files with a place for each image, if there is room for ``count`` of them."""
        block = 4096
        needed = count * (-(-self._bytes // block) * block + _RECORD.itemsize)
        free = shutil.disk_usage(self.folder).free
        if needed > share * free:
            limit = "" if share == 1 else f", of which at most {share:.0%} are taken unasked"
            raise WriteError(
                errno.ENOSPC,
                f"{count} decoded images need {_gigabytes(needed)} in {self.folder}; the disk has"
                f" {_gigabytes(free)} free{limit}. Make room, {_ADVICE}",
            )
        if not _is_cache(self.folder):
            write_json(self.folder / _INFO, self._info)
        for path in self.folder.parent.glob("*"):
            if path != self.folder and _is_cache(path) and _outdated(path, self._info):
                with contextlib.suppress(OSError), claim(path):  # not one that is being filled
                    shutil.rmtree(path, ignore_errors=True)
        lengths = {_PIXELS: self._bytes, _RECORDS: _RECORD.itemsize}
        for name, length in lengths.items():
            with _told(), open(self.folder / name, "ab") as file:
                file.truncate(len(self._stamps) * length)  # takes no room until it is written

    def _decode_missing(self, rows: Rows, total: int, workers: int, progress: Count | None) -> None:
        with self._opened() as put:
            _in_threads(lambda row: put(row, self._decode(row)), rows, total, workers, progress)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Callable[[int, Decoded], None]]:
        """Yields what writes an image to its place, from any thread."""
        with contextlib.ExitStack() as files:
            with _told():
                pixels, records = (
                    files.enter_context(open(self.folder / name, "r+b", buffering=0))
                    for name in (_PIXELS, _RECORDS)
                )

            def put(row: int, image: Decoded) -> None:
                data = np.ascontiguousarray(image.pixels).reshape(-1).data
                known = (self._stamps[row], zlib.crc32(data), image.width, image.height, 0)
                record = np.array([known], _RECORD)
                try:  # the pixels first: an image counts as there once its record is
                    _write_at(pixels.fileno(), data, row * self._bytes)
                    _write_at(records.fileno(), record.view(np.uint8).data, row * _RECORD.itemsize)
                except OSError as error:
                    raise cannot_write(self.folder / _PIXELS, error) from None

            yield put

    def _map(self) -> None:
        if not (self.folder / _RECORDS).exists():  # no image was asked for
            self._records = np.zeros(len(self._stamps), _RECORD)
            return
        with _told(), open(self.folder / _PIXELS, "rb") as file:
            self._records = np.fromfile(self.folder / _RECORDS, _RECORD)
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pixels = np.frombuffer(self._mapped, np.uint8).reshape(self._shape)

    def _restored(self, row: int) -> NDArray[np.uint8]:
        """A damaged image, decoded again; written too, where that can be."""
        image = self._decode(row)
        with contextlib.suppress(OSError), self._opened() as put:
            put(row, image)
        return image.pixels


def file_state(path: str | Path) -> tuple[int, ...]:
    """What changes when a file is written again: size and times.

    st_ctime cannot be set, so a file with an old date in another's place is noticed.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def stamp(*parts: object) -> int:
    """A 64-bit number of what an image is decoded from; never 0."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1


def cache_folder(
    root: Path, files: Iterable[str], made: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The folder of a cache, by what its images depend on, and what to write there.

    Args:
        root: the data folder; the caches lie in its :data:`FOLDER`, or in the folder that the
            environment variable :data:`VARIABLE` names.
        files: names of all its images, in order.
        made: how an image is made, as JSON values.
    """
    place = os.environ.get(VARIABLE)
    above = Path(place).expanduser() if place else root / FOLDER
    listed = hashlib.sha256("\0".join(files).encode("utf-8", "surrogateescape")).hexdigest()
    info = {
        "images": str(root.resolve()) if place else "..",  # which may be moved with its cache
        "files": listed,
        "made": dict(made),
        "format": _FORMAT,
    }
    key = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()
    return above / key[:16], info


def remove_caches(root: Path) -> None:
    """Remove the caches that lie in a data folder."""
    for folder in (root / FOLDER).glob("*"):
        if _is_cache(folder):
            shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # not there, or not empty
        (root / FOLDER).rmdir()


def _in_threads(
    load: Callable[[int], None], rows: Rows, total: int, workers: int, progress: Count | None
) -> None:
    """Call ``load`` with each row; ``total`` counts what was done before, too."""
    done = total - len(rows)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for start in range(0, len(rows), _WINDOW):
                for _ in pool.map(load, rows[start : start + _WINDOW].tolist()):
                    done += 1
                    if progress is not None:
                        progress(done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Where others keep a cache to themselves, images go elsewhere, as where nobody may write."""
    try:
        yield
    except PermissionError as error:
        raise WriteError(error.errno, describe(error)) from None


def _is_cache(folder: Path) -> bool:
    try:
        return (folder / _INFO).is_file() and _ours(folder / _INFO)
    except PermissionError:
        return False


def _outdated(folder: Path, info: Mapping[str, Any]) -> bool:
    """Whether a cache is of the same data folder when other files were in it."""
    other = read_json(folder / _INFO, "cache")
    same = all(other.get(key) == info[key] for key in ("images", "made", "format"))
    return same and other["files"] != info["files"]


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while len(data):
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
