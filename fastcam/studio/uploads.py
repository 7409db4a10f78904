"""Images that people bring: bounded, decoded in a process of their own, under names of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastcam._util.files import json_with, make_folder, read_json, write_atomic, write_json
from fastcam._util.names import printable
from fastcam.studio.decode import SECONDS
from fastcam.studio.home import NoSuchThing, checked_id, inside, new_id
from fastcam.studio.jobs import with_this_fastcam
from fastcam.studio.session import Session
from fastcam.studio.settings import MEGABYTE, StudioConfig

INDEX = "uploads.json"
_NAME = 60  # characters of a file's name that are shown
# Held while an index is read and written again: tabs are threads of the one server that has
# claimed the studio's folder.
_indexing = threading.Lock()


@dataclass(frozen=True)
class Upload:
    """An image that somebody brought.

    Attributes:
        id: its name here.
        name: what it was called, for people alone: no path is made of it.
        width, height: in pixels, as it came.
        landmarks: of the face that was found in it, [68][2] in pixels of the kept image, or None.
    """

    id: str
    name: str
    width: int
    height: int
    landmarks: list[list[float]] | None


def uploads_of(session: Session) -> list[Upload]:
    """The images of a session, oldest first."""
    path = session.uploads / INDEX
    if not path.is_file():
        return []
    return [Upload(**v) for v in read_json(path, "list of images", ("images",))["images"]]


def picture_of(session: Session, name: str) -> Path:
    """Where an image lies.

    Raises:
        NoSuchThing: there is none of that name.
    """
    path = inside(session.folder, "uploads", f"{checked_id(name)}.png")
    if not path.is_file():
        raise NoSuchThing("there is nothing of that name")
    return path


def take(session: Session, files: Sequence[tuple[str, bytes]], config: StudioConfig) -> list[str]:
    """Take images in.

    Args:
        session: whose they are.
        files: names, as the browser says them, and contents.
        config: the bounds.

    Returns:
        A sentence for each that was not taken.
    """
    said: list[str] = []
    raw: dict[str, str] = {}
    room = config.max_files - len(uploads_of(session))
    make_folder(session.uploads)
    for given, data in files:
        shown = _shown(given)
        if not data:
            said.append(f"{shown}: the file is empty")
        elif len(data) > config.max_megabytes * MEGABYTE:
            said.append(too_large(given, len(data), config))
        elif len(raw) >= room:
            said.append(too_many(given, config))
        else:
            name = new_id()
            path = session.uploads / f"{name}.raw"
            write_atomic(path, lambda file, data=data: file.write(data), sync=False)  # type: ignore[misc]
            raw[name] = shown
    if raw:
        said += _decoded(session, raw, config)
    return said


def _decoded(session: Session, raw: dict[str, str], config: StudioConfig) -> list[str]:
    said = []
    try:
        found = _child(session.uploads, list(raw), config)
    finally:
        for name in raw:
            (session.uploads / f"{name}.raw").unlink(missing_ok=True)
    with _indexing:
        kept = uploads_of(session)  # not before: another tab may have changed it meanwhile
        for name, shown in raw.items():
            values = found.get(name, {"error": "decoding it took too much memory or time"})
            if "error" in values:
                said.append(f"{shown}: {values['error'].replace('cannot decode the file: ', '')}")
            elif len(kept) >= config.max_files:
                (session.uploads / f"{name}.png").unlink(missing_ok=True)
                said.append(too_many(shown, config))
            else:
                kept.append(Upload(name, shown, **values))
        _write(session, kept)
    return said


def _child(folder: Path, names: list[str], config: StudioConfig) -> dict[str, Any]:
    """What the decoder's process says of each; those that it says nothing of brought it down.

    If several files came at once, those that are left are tried again one by one.
    """
    command = [sys.executable, "-m", "fastcam.studio.decode", str(folder)]
    try:
        ended = subprocess.run(
            [*command, f"{config.max_megapixels:g}", *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60 + SECONDS * len(names),
            env=with_this_fastcam(),
            check=False,
        )
        if ended.returncode == 0:
            return dict(json.loads(ended.stdout))
    except (subprocess.TimeoutExpired, ValueError):
        pass
    if len(names) == 1:
        return {}
    return {k: v for name in names for k, v in _child(folder, [name], config).items()}


def drop(session: Session, name: str) -> None:
    """Remove an image; NoSuchThing if there is none of that name."""
    picture = inside(session.folder, "uploads", f"{checked_id(name)}.png")
    with _indexing:
        found = uploads_of(session)
        kept = [u for u in found if u.id != name]
        if len(kept) == len(found):  # another tab may have been faster
            raise NoSuchThing("there is nothing of that name")
        _write(session, kept)  # first: what it names is there, whenever the server is killed
        picture.unlink(missing_ok=True)


def _write(session: Session, kept: list[Upload]) -> None:
    content = {"images": [asdict(u) for u in kept]}
    write_json(session.uploads / INDEX, content, ours=json_with("images"))


def too_large(given: str, size: int, config: StudioConfig) -> str:
    """What is said of a file of ``size`` bytes."""
    return (
        f"{_shown(given)}: it has {size / MEGABYTE:.1f} MB; at most {config.max_megabytes:g} MB "
        "are taken"
    )


def too_many(given: str, config: StudioConfig) -> str:
    """What is said of an image for which there is no room."""
    return f"{_shown(given)}: at most {config.max_files} images; remove some first"


def _shown(given: str) -> str:
    """A file's name for people: one line, no folders, not too long."""
    name = printable(str(given)).replace("\\", "/").rpartition("/")[2]
    bare = "".join(c if c.isprintable() else "�" for c in name).strip() or "a file"
    return bare if len(bare) <= _NAME else f"{bare[: _NAME - 1]}…"
