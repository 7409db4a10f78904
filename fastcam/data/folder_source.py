"""Image files in a folder and the folders in it."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from fastcam._util.names import printable
from fastcam.data.source import is_image, is_litter


def list_images(folder: str | Path, without: Collection[str | Path] = ()) -> list[str]:
    """Paths of the images in a folder and the folders in it, relative to it and sorted.

    Args:
        folder: the folder.
        without: folders in it that are left out, as those of masks.
    """
    folder = Path(folder)
    left_out = {Path(place).resolve() for place in without}
    found = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [
            f for f in folders if not is_litter(f) and (here / f).resolve() not in left_out
        ]
        inner = here.relative_to(folder).as_posix()
        inner = "" if inner == "." else f"{inner}/"
        found += [inner + file for file in files if is_image(file) and not is_litter(file)]
    return sorted(found)


class FolderSource:
    """The images of a folder, as bytes by path: what :class:`ImageSource` is for CelebA's layout.

    Args:
        folder: that the paths are relative to.
        names: the paths.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]) -> None:
        self.path, self.names = Path(folder), list(names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> bytes:
        """The encoded image file.

        Raises:
            FileNotFoundError: no image of that name.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} holds no image {printable(name)!r}") from None
