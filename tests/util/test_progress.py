"""Progress of work that goes on in steps: to a caller, as a bar on a terminal, or not at all."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from types import ModuleType

import pytest

from fastcam._util.progress import advancing, reporting


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


@pytest.mark.parametrize(("progress", "terminal"), [(True, True), (True, False), (None, True)])
def test_bars_are_drawn_on_a_terminal_if_wanted(
    progress: bool | None,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _stand_in(monkeypatch, terminal)
    with reporting(progress) as report:
        if report is not None:
            report("epoch 1 of 1", 3, 3, "loss 0.1")
    error = capsys.readouterr().err
    assert ("epoch 1 of 1" in error and "loss 0.1" in error) == (progress is True and terminal)


def test_a_report_of_the_callers_is_his() -> None:
    def own(what: str, done: int, total: int, note: str = "") -> None: ...

    with reporting(own) as report:
        assert report is own


@pytest.mark.parametrize("widgets", [True, False])
def test_bars_are_drawn_in_a_notebook_that_has_widgets(
    widgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's stderr is no terminal."""
    from rich.console import Console

    _stand_in(monkeypatch, terminal=False)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setattr("rich.console.Console", partial(Console, force_jupyter=True))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *of: (
            found("rich" if widgets else "no_such") if name == "ipywidgets" else found(name, *of)
        ),
    )
    with reporting(True) as report:
        assert (report is not None) == widgets
