"""Uploaded images: bounds, a process of their own, and a sentence for each bad file."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from PIL import Image
from tiny_studio import encoded

from fastcam.studio import uploads
from fastcam.studio.home import Home, NoSuchThing, new_id
from fastcam.studio.session import Session
from fastcam.studio.settings import StudioConfig
from fastcam.studio.uploads import drop, picture_of, take, uploads_of

CONFIG = StudioConfig(max_files=4, max_megabytes=1, max_megapixels=1)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.open(Home.open(tmp_path / "studio"), new_id())


def test_good_and_bad_files(session: Session, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (5000, 5000)).save(bomb, "PNG")  # few bytes, many pixels
    files = [
        ("../../../etc/passwd.png", encoded(40, 50)),
        ("photo.webp", encoded(30, 60, "WEBP")),
        ("text.png", b"this is no picture"),
        ("bomb.png", bomb.getvalue()),
        ("cut.jpg", encoded(64, 64, "JPEG")[:300]),
        ("empty.png", b""),
        ("heavy.png", b"x" * (1 << 21)),
    ]
    said = "\n".join(take(session, files, CONFIG))
    assert "text.png: it is damaged, or no image" in said
    assert "bomb.png: it has 25.0 million pixels; at most 1 are taken" in said
    assert "cut.jpg: at most 4 images" in said  # the fifth that is neither empty nor heavy
    assert "empty.png: the file is empty" in said and "heavy.png: it has 2.0 MB" in said
    found = uploads_of(session)
    assert [(u.name, u.width, u.height) for u in found] == [
        ("passwd.png", 40, 50), ("photo.webp", 30, 60),
    ]  # fmt: skip
    for upload in found:
        path = picture_of(session, upload.id)
        assert path.parent == session.uploads
        with Image.open(path) as image:
            assert image.size == (upload.width, upload.height)
    assert {p.suffix for p in session.uploads.iterdir()} == {".png", ".json"}
    everything = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert everything == {"studio"}
    drop(session, found[0].id)
    assert [u.name for u in uploads_of(session)] == ["photo.webp"]
    for name in ("../session", found[0].id, "index"):
        with pytest.raises(NoSuchThing):
            picture_of(session, name)
    session.remove()
    assert not session.folder.exists()


def _decoded(folder: Path, names: list[str]) -> dict[str, Any]:
    """What a decoder makes and says."""
    for name in names:
        (folder / f"{name}.png").write_bytes(encoded(4, 4))
    return {name: {"width": 4, "height": 4, "landmarks": None} for name in names}


@pytest.mark.parametrize("most", [4, 2, 1])
def test_two_tabs_at_once(session: Session, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Nothing is lost, and there are no more than may be: the decoders of both are at work
    together, and what writes the index takes its time."""
    both, write = Barrier(2), uploads.write_json

    def decode(folder: Path, names: list[str], config: StudioConfig) -> dict[str, Any]:
        both.wait(30)
        return _decoded(folder, names)

    def write_slowly(*args: Any, **options: Any) -> None:
        time.sleep(0.2)
        write(*args, **options)

    monkeypatch.setattr(uploads, "_child", decode)
    monkeypatch.setattr(uploads, "write_json", write_slowly)
    config = StudioConfig(max_files=most)

    def bring(name: str) -> list[str]:
        there = Session.open(Home.open(session.folder.parents[1]), session.folder.name)
        return take(there, [(name, b"raw")], config)

    with ThreadPoolExecutor(2) as pool:
        said = [text for found in pool.map(bring, ("0.png", "1.png")) for text in found]
    found = uploads_of(session)
    assert len(found) == min(most, 2) and len(said) == 2 - len(found)
    assert all("at most 1 images; remove some first" in text for text in said)
    assert {p.stem for p in session.uploads.glob("*.png")} == {u.id for u in found}


def test_an_image_is_removed_while_another_comes(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(folder: Path, names: list[str], config: StudioConfig) -> dict[str, Any]:
        for upload in uploads_of(session):
            drop(session, upload.id)
        return _decoded(folder, names)

    monkeypatch.setattr(uploads, "_child", decode)
    for name in ("0.png", "1.png"):
        assert take(session, [(name, b"raw")], CONFIG) == []
        assert [u.name for u in uploads_of(session)] == [name]


def test_killed_while_an_image_is_removed(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index names no picture that is gone; of earlier versions it may, which can be removed."""
    monkeypatch.setattr(uploads, "_child", lambda folder, names, _: _decoded(folder, names))
    take(session, [("0.png", b"raw"), ("1.png", b"raw")], CONFIG)
    first, second = uploads_of(session)
    picture_of(session, first.id).unlink()
    drop(session, first.id)
    assert uploads_of(session) == [second]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(uploads, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        drop(session, second.id)
    assert uploads_of(session) == [second] and picture_of(session, second.id).is_file()


def test_a_file_system_without_locks(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(uploads, "_child", lambda folder, names, _: _decoded(folder, names))
    assert take(session, [("0.png", b"raw")], CONFIG) == []
    (first,) = uploads_of(session)
    drop(session, first.id)
    assert uploads_of(session) == []
