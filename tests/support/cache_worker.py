"""A process that decodes generated images into a cache: ``python cache_worker.py FOLDER …``."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from fastcam.data.cache import Decoded, FileCache

INFO = {"images": "..", "files": "generated", "made": {}, "format": 1}


def pixels(row: int, size: int) -> np.ndarray:
    """The image at a position: bytes that depend on it."""
    return np.random.default_rng(row).integers(0, 256, (3, size, size), dtype=np.uint8)


def open_cache(
    folder: Path, count: int, size: int, log: Path | None = None, seconds: float = 0.0
) -> FileCache:
    """A cache whose decoder writes a byte into ``log`` for each image, and takes ``seconds``."""

    def decode(row: int) -> Decoded:
        if log is not None:
            with open(log, "ab", buffering=0) as file:
                file.write(b".")
        time.sleep(seconds)
        return Decoded(pixels(row, size), size, size)

    return FileCache(folder, INFO, decode, count, size)


def fill(cache: FileCache, count: int) -> None:
    """Decode all of the ``count`` images that are missing."""
    cache.fill_rows(np.arange(count), np.full(count, 7, np.uint64))


def private_memory() -> int:
    """Bytes that this process alone holds (Linux); mapped files are not among them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def read_all(cache: FileCache, count: int, size: int, batch: int = 64) -> None:
    """Every image once, in another order, compared with what it should be."""
    order = np.random.default_rng(0).permutation(count)
    for rows in np.split(order, range(batch, count, batch)):
        found = cache.images(rows)
        assert (found[0] == pixels(int(rows[0]), size)).all()
        assert found.shape == (len(rows), 3, size, size)


def main(folder: str, count: str, size: str, log: str, seconds: str, spare: str) -> None:
    """Fill and read; with ``spare``, in so many bytes more than the process has at the start."""
    images, side, room = int(count), int(size), int(spare)
    if room:
        used = private_memory()
        status = Path("/proc/self/status").read_text().splitlines()
        data = next(int(x.split()[1]) * 1024 for x in status if x.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + room, data + room))
    cache = open_cache(Path(folder), images, side, Path(log), float(seconds))
    fill(cache, images)
    read_all(cache, images, side)
    if room:
        print(private_memory() - used)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
