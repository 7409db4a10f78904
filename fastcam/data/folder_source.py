"""Image files in a folder and the folders in it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from fastcam._util.names import printable
from fastcam.data.source import is_image, is_litter


def list_images(folder: str | Path, without: Collection[str | Path] = ()) -> list[str]:
    """Paths of the images in a folder and the folders in it, relative to it and sorted.

    Args:
        folder: the folder.
        without: folders in it that are left out, as those of masks.
    """
    return sorted(inner + file for inner, file in walk_images(folder, without))


def walk_images(
    folder: str | Path, without: Collection[str | Path] = ()
) -> Iterator[tuple[str, str]]:
    """The images in a folder and the folders in it, links to folders among them.

    Args:
        folder, without: as in :func:`list_images`.

    Yields:
        The path of the folder that an image lies in, below ``folder`` and with a slash behind it
        (empty for ``folder`` itself), and the name of its file.
    """
    left_out = {os.path.realpath(place) for place in without}
    top = os.fspath(folder)
    # By folder that is to come: it and those above it, to which a link may lead round in a circle.
    above = {top: {os.path.realpath(top)}}
    for parent, folders, files in os.walk(top, followlinks=True):
        here, kept = above.pop(parent), []
        for name in folders:
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            if not is_litter(name) and real not in left_out and real not in here:
                above[path] = {*here, real}
                kept.append(name)
        folders[:] = kept
        inner = Path(parent).relative_to(folder).as_posix()
        inner = "" if inner == "." else f"{inner}/"
        yield from ((inner, file) for file in files if is_image(file) and not is_litter(file))


class FolderSource:
    """The images of a folder, as bytes by path: what :class:`ImageSource` is for CelebA's layout.

    Args:
        folder: that the paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def read(self, name: str) -> bytes:
        """The encoded image file.

        Raises:
            FileNotFoundError: no image of that name.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} holds no image {printable(name)!r}") from None
