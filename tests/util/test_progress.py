"""Progress of work that goes on in steps: to a caller, as a bar on a terminal, or not at all."""

from __future__ import annotations

import sys

import pytest

from fastcam._util.progress import advancing


def _stand_in(monkeypatch: pytest.MonkeyPatch, terminal: bool = True) -> None:
    """Let stderr be a terminal, or none."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_steps_are_counted_from_those_done_before() -> None:
    seen: list[tuple[int, int]] = []
    with advancing(lambda done, total: seen.append((done, total)), "work", 10, 4) as advance:
        advance(2)
        advance(4)
    assert seen == [(6, 10), (10, 10)]


@pytest.mark.parametrize(("progress", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_drawn_on_a_terminal_if_wanted(
    progress: bool,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _stand_in(monkeypatch, terminal)
    with advancing(progress, "finding faces", 3) as advance:
        advance(3)
    error = capsys.readouterr().err
    assert ("finding faces" in error and "3/3" in error) == (progress and terminal)


def test_brackets_in_names_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(monkeypatch)
    with advancing(True, "run[seed1] [/]", 3) as advance:
        advance(3)
    assert "run[seed1] [/]" in capsys.readouterr().err
