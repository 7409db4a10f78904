"""Image files in a folder or in the official zip."""

from __future__ import annotations

import contextlib
import os
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastcam._util.names import absent_images, composed, printable
from fastcam.data.cache import file_state, stamp

FOLDER = "img_align_celeba"
#: Suffixes, in any case, by which an image in the folder is known. HEIC is among them so that the
#: decoder can say that Pillow does not read it.
SUFFIXES = frozenset(
    [
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif",
        ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".ppm", ".pgm",
        ".pbm", ".pnm", ".pfm", ".tga", ".heic", ".heif",
    ]
)  # fmt: skip
_DEPTH = 8  # folders in folders that are searched for images
_LARGEST = 1 << 30  # bytes to which one entry of a zip may unpack
_ENCRYPTED, _UTF8 = 0x1, 0x800  # zip flags


class _Zip(NamedTuple):
    """A zip that a process has open; one of its threads reads at a time."""

    process: int
    file: zipfile.ZipFile
    lock: threading.Lock


class ImageSource:
    """The images of a folder in CelebA's layout, as bytes by file name.

    Reads ``root/img_align_celeba/NAME`` or, where there is no such folder or no image in it,
    ``root/img_align_celeba.zip`` with entries ``img_align_celeba/NAME``. Further folders around the
    images, as some downloads have, do not matter, nor does what macOS and Windows leave beside
    them. Every process opens a zip handle of its own, which its threads share, so a source can be
    shared with workers however they are started.

    Args:
        root: folder in the official layout.

    Attributes:
        names: the images' file names, sorted; accents are composed (Unicode NFC), whatever form the
            file system keeps.
        files: the images and whatever else lies beside them, sorted.
        path: the folder that holds them, or the zip.

    Raises:
        FileNotFoundError: neither folder nor zip is there.
        ValueError: the zip is damaged or encrypted, there is no image, or images lie in several
            folders.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is not a folder")
        folder, archive = self.root / FOLDER, self.root / f"{FOLDER}.zip"
        self._zip: _Zip | None = None
        places: Mapping[str, list[str]] = {}
        if folder.is_dir():
            self.path, places = folder, _places_in_folder(folder)
        self._stored: dict[str, str] = {}
        if not places and archive.is_file():
            self.path = archive
            places, self._stored = _places_in_zip(archive, self._entries(archive))
        elif not folder.is_dir():
            raise FileNotFoundError(
                f"{self.root} holds neither a folder {FOLDER}/ nor {FOLDER}.zip"
                " (the official CelebA layout)"
            )
        if not places:
            raise ValueError(f"{self.path} holds no image (.jpg, .png, …)")
        if len(places) > 1:
            raise ValueError(
                f"{self.path}: expected all images in one folder, got {sorted(places)[:3]}"
            )
        self._zipped = self.path == archive
        ((place, files),) = places.items()
        self._prefix = place
        if not self._zipped:
            self.path, self._prefix = folder / place, ""
        self._take(files)

    def _take(self, files: Iterable[str]) -> None:
        known = set()
        for file in files:
            name = composed(file)
            if name in known:
                raise ValueError(
                    f"{self.path}: two files are called {printable(name)!r}, with the accents"
                    " written in different ways"
                )
            known.add(name)
            stored = self._prefix + file
            stored = self._stored.pop(stored, stored)
            if stored != self._prefix + name:
                self._stored[name] = stored
        self._known = frozenset(known)
        self.files = sorted(known)
        self.names = [name for name in self.files if is_image(name)]

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None}

    def require(self, names: Iterable[str], table: str) -> None:
        """Make sure that the images of a table are there.

        Raises:
            ValueError: some are not; the message counts them, names one and, where a file's name
                differs in suffix or case alone, says so.
        """
        missing = [name for name in names if name not in self._known]
        if missing:
            raise ValueError(absent_images(str(self.path), missing, table, self._known))

    def read(self, name: str) -> bytes:
        """The encoded image file.

        Raises:
            FileNotFoundError: no image of that name.
            ValueError: it cannot be unpacked from the zip.
        """
        if name not in self._known:
            raise FileNotFoundError(f"{self.path} holds no image {printable(name)!r}")
        stored = self._stored.get(name, self._prefix + name)
        if not self._zipped:
            return (self.path / stored).read_bytes()
        archive = self._archive()
        try:
            info = archive.file.getinfo(stored)
            if info.file_size > _LARGEST:
                raise ValueError(f"it unpacks to {info.file_size} bytes")
            with archive.lock:
                return archive.file.read(info)
        except Exception as error:  # zipfile and its decompressors raise many kinds on damaged data
            raise ValueError(
                f"{self.path}: {printable(name)} cannot be read ({error}); is the zip damaged?"
            ) from None

    def stamps(self, names: Iterable[str]) -> NDArray[np.uint64]:
        """A number for each image that is another one once the file was written again.

        It is a hash of the file's size and times, or of what the zip says of size and content
        (CRC-32); never 0. The file itself is not read.

        Raises:
            FileNotFoundError: an image is no longer there.
        """
        found = []
        archive = self._archive() if self._zipped else None
        for name in names:
            stored = self._stored.get(name, self._prefix + name)
            if archive is not None:
                info = archive.file.getinfo(stored)
                parts: tuple[int, ...] = (info.file_size, info.CRC)
            else:
                parts = file_state(self.path / stored)
            found.append(stamp(*parts))
        return np.array(found, np.uint64)

    def _archive(self) -> _Zip:
        """The open zip. To open it takes as long as to read thousands of images."""
        found = self._zip
        if found is None or found.process != os.getpid():
            # a forked child must not share the parent's file offset, nor a lock that was held
            found = self._zip = _Zip(os.getpid(), zipfile.ZipFile(self.path), threading.Lock())
        return found

    def _entries(self, path: Path) -> list[zipfile.ZipInfo]:
        try:
            return self._archive().file.infolist()
        except PermissionError:
            raise
        except Exception as error:  # zipfile raises many kinds on damaged data
            raise ValueError(
                f"{path} is not a readable zip file ({error}); was it copied or downloaded in full?"
            ) from None


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_litter(name: str) -> bool:
    """What systems leave beside files: ``._000001.jpg``, ``.DS_Store``, ``__MACOSX``, ``@eaDir``.

    Thumbs.db and desktop.ini have no image's suffix.
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


def _places_in_folder(folder: Path) -> dict[str, list[str]]:
    """Files of the folders that hold images, by path below ``folder``: the uppermost level."""
    level = [""]
    for _ in range(_DEPTH):  # bounded, as links may lead round in a circle
        found, below = {}, []
        for place in level:
            files = []
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    if is_litter(entry.name):
                        continue
                    if entry.is_dir():
                        below.append(f"{place}{entry.name}/")
                    elif entry.is_file():
                        files.append(entry.name)
            if any(map(is_image, files)):
                found[place] = files
        if found:
            return found
        level = below
    return {}


def _places_in_zip(
    path: Path, infos: Iterable[zipfile.ZipInfo]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The same of a zip; besides, the entries' names as stored, where they differ from the path.

    Entries are only ever read into memory, so where a path leads (``..``, ``C:``) does not matter.
    """
    places: dict[str, dict[str, None]] = defaultdict(dict)
    stored = {}
    for info in infos:
        parts = [p for p in _entry_path(info).split("/") if p not in ("", ".")]
        if not parts or info.is_dir() or any(p != ".." and is_litter(p) for p in parts):
            continue
        place = "".join(f"{part}/" for part in parts[:-1])
        places[place][parts[-1]] = None
        if info.filename != place + parts[-1]:
            stored[place + parts[-1]] = info.filename
        if info.flag_bits & _ENCRYPTED and is_image(parts[-1]):
            raise ValueError(
                f"{path} is encrypted: unpack it with its password into {path.parent / FOLDER}"
            )
    with_images = {p: list(files) for p, files in places.items() if any(map(is_image, files))}
    least = min((p.count("/") for p in with_images), default=0)
    return {p: files for p, files in with_images.items() if p.count("/") == least}, stored


def _entry_path(info: zipfile.ZipInfo) -> str:
    """An entry's path; some programs write backslashes, or UTF-8 without the flag that says so."""
    name = info.filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        with contextlib.suppress(UnicodeError):  # then it is the code page
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")
