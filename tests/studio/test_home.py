"""The studio's folder: whose it is, and that no name leads out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastcam.studio.home import Home, NoSuchThing, checked_id, ids_in, inside, new_id
from fastcam.studio.pointing import Pointing
from fastcam.studio.session import Session

CRAFTED = (
    "", "..", "../..", "a/b", "/etc/passwd", "..%2f..", "0123456789abcdef/../..", "0123abcd\x00",
    "ABCDEF012345", "0123abcd\n", "con", ".", "~root", "0123abcg", "0" * 33,
)  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_name_is_none_of_the_studios(name: str, tmp_path: Path) -> None:
    home = Home.open(tmp_path / "studio")
    with pytest.raises(NoSuchThing):
        checked_id(name)
    with pytest.raises(NoSuchThing):
        Session.open(home, name)
    with pytest.raises(NoSuchThing):
        Session.open(home, new_id()).job(name)


def test_no_path_leaves_its_folder_not_even_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert inside(folder, "a", "b") == folder / "a" / "b"
    for names in (("..",), ("link", "x"), ("a", "..", "..", "x"), ("/etc/passwd",)):
        with pytest.raises(NoSuchThing):
            inside(folder, *names)


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        Home.open(tmp_path)
    home = Home.open(tmp_path / "new")
    assert Home.open(home.root) == home  # again
    assert home.secret() == home.secret() != ""
    assert (home.root / "secret").stat().st_mode & 0o077 == 0


def test_a_session_is_what_it_was_after_a_restart_and_can_be_undone(tmp_path: Path) -> None:
    home, name = Home.open(tmp_path / "studio"), new_id()
    session = Session.open(home, name)
    session.choose(attribute="Lips", colours="viridis")
    session.point(Pointing().toggle("mouth"))
    session.point(session.pointing.toggle("chin"))
    again = Session.open(home, name)
    assert vars(again) == vars(session)
    again.take_back()
    assert again.pointing.text == "mouth"
    again.take_back()
    again.take_back()  # nothing left: stays
    assert again.pointing.empty
    assert Session.open(home, name).pointing.empty
    assert list(ids_in(home.root / "sessions")) == [name]
    again.remove()
    assert not again.folder.exists()
