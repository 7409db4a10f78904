"""Uploaded images: bounds, a process of their own, and a sentence for each bad file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from tiny_studio import encoded

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
