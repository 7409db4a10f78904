"""Where the image files lie: a folder, or the official zip."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from pathlib import Path

FOLDER = "img_align_celeba"
_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageSource:
    """The images of a folder in CelebA's layout, as bytes by file name.

    Reads ``root/img_align_celeba/NAME`` or, where there is no such folder,
    ``root/img_align_celeba.zip`` with entries ``img_align_celeba/NAME``. Every process and thread
    opens its own zip handle, so a source can be shared with workers however they are started.

    Args:
        root: folder in the official layout.

    Raises:
        FileNotFoundError: neither folder nor zip is there.
        ValueError: the zip is damaged or holds no image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is not a folder")
        folder, archive = self.root / FOLDER, self.root / f"{FOLDER}.zip"
        self.path: Path
        self._prefix = ""
        self._local = threading.local()
        if folder.is_dir():
            self.path = folder
            with os.scandir(folder) as entries:
                self.names = sorted(e.name for e in entries if e.name.lower().endswith(_SUFFIXES))
        elif archive.is_file():
            self.path = archive
            self.names = self._zip_names()
        else:
            raise FileNotFoundError(
                f"{self.root} holds neither a folder {FOLDER}/ nor {FOLDER}.zip"
                " (the official CelebA layout)"
            )
        if not self.names:
            raise ValueError(f"{self.path} holds no .jpg or .png image")
        self._known = frozenset(self.names)

    def _zip_names(self) -> list[str]:
        try:
            with zipfile.ZipFile(self.path) as handle:
                entries = [n for n in handle.namelist() if n.lower().endswith(_SUFFIXES)]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path} is not a readable zip file: {error}") from None
        prefixes = {e.rpartition("/")[0] for e in entries}
        if len(prefixes) > 1:
            raise ValueError(
                f"{self.path}: expected all images in one folder, got {sorted(prefixes)[:3]}"
            )
        self._prefix = f"{prefixes.pop()}/" if prefixes and prefixes != {""} else ""
        return sorted(e[len(self._prefix) :] for e in entries)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def read(self, name: str) -> bytes:
        """The encoded image file.

        Raises:
            FileNotFoundError: no image of that name.
        """
        if name not in self._known:
            raise FileNotFoundError(f"{self.path} holds no image {name!r}")
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        local = self._local
        if (
            getattr(local, "pid", None) != os.getpid()
        ):  # a forked child must not share the parent's file offset
            local.zip, local.pid = zipfile.ZipFile(self.path), os.getpid()
        try:
            return local.zip.read(self._prefix + name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # or encrypted
            raise ValueError(f"{self.path}: {name} cannot be read: {error}") from None
