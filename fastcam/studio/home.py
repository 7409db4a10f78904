"""The studio's folder, and every path in it: names are the studio's own, never a request's."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastcam._util.files import make_folder, read_json, write_atomic, write_json
from fastcam._util.run_files import CHECKPOINT

#: What the studio calls its sessions, jobs and images: hexadecimal digits.
_ID = re.compile(r"[0-9a-f]{8,32}")
_MARK = {"format": "fastcam-studio", "version": 1}


class NoSuchThing(KeyError):
    """A name that is none of the studio's, or of nothing that is there."""


def new_id() -> str:
    """A name that nobody guesses."""
    return secrets.token_hex(8)


def checked_id(text: str) -> str:
    """``text``, if the studio may have given it as a name.

    Raises:
        NoSuchThing: it has anything but hexadecimal digits in it, as every path has.
    """
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise NoSuchThing("there is nothing of that name")
    return text


@dataclass(frozen=True)
class Home:
    """A folder of the studio's, in which nothing else lies.

    Attributes:
        root: the folder.
    """

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> Home:
        """Make the folder, or take one that is the studio's.

        Raises:
            ValueError: there is something in it that is not the studio's.
            OSError: it cannot be made.
        """
        root = make_folder(root).resolve()
        mark = root / "studio.json"
        if mark.is_file():
            read_json(mark, "folder of the studio", _MARK)
        elif any(root.iterdir()):
            raise ValueError(f"{root} holds other files; name an empty folder for the studio")
        else:
            write_json(mark, _MARK)
        return cls(root)

    @property
    def faces(self) -> Path:
        """The drawn faces."""
        return self.root / "faces"

    @property
    def start(self) -> Path:
        """The job that draws them and trains a network on them; its ``network`` is the run."""
        return self.root / "start"

    @property
    def network(self) -> Path:
        """The checkpoint that the studio opens on."""
        return self.start / "network" / CHECKPOINT

    @property
    def attention(self) -> Path:
        """The job that trains an attention network on the drawn faces."""
        return self.root / "attention"

    @property
    def surveys(self) -> Path:
        """Jobs that look at many images, by what they were asked."""
        return self.root / "surveys"

    def session(self, name: str) -> Path:
        """The folder of a person's session; NoSuchThing for a name that is not the studio's."""
        return self.root / "sessions" / checked_id(name)

    def secret(self) -> str:
        """What signs the cookies, the same after a restart."""
        path = self.root / "secret"
        if not path.is_file():
            text = secrets.token_urlsafe(32)
            write_atomic(path, lambda file: file.write(text.encode()))
            path.chmod(0o600)
        return path.read_text(encoding="ascii")


def inside(folder: Path, *names: str) -> Path:
    """A file of a folder, by names that the program chose and perhaps ids of a request.

    Raises:
        NoSuchThing: the path would leave the folder, by whatever way, links included.
    """
    path = folder.joinpath(*names).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise NoSuchThing("there is nothing of that name")
    return path


def ids_in(folder: Path) -> Iterator[str]:
    """Names of the studio's in a folder, oldest first."""
    if folder.is_dir():
        found = [p for p in folder.iterdir() if _ID.fullmatch(p.stem)]
        yield from (p.stem for p in sorted(found, key=lambda p: p.stat().st_mtime_ns))
