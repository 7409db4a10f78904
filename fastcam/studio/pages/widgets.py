"""Plain HTML controls with names for keyboard and screen reader, and what pages show often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from nicegui.element import Element

from fastcam.report import Table
from fastcam.studio.jobs import Job, State

Change = Callable[[str], Any]


def tag(what: str, /, kind: str = "", text: str = "", **attributes: Any) -> Element:
    """An element of plain HTML or SVG; ``aria_label`` becomes ``aria-label``, None is left out."""
    element = ui.element(what)
    if kind:
        element.classes(kind)
    if text:
        element._text = text
    set_attributes(element, **attributes)
    return element


def set_attributes(element: Element, **attributes: Any) -> None:
    """Set attributes of an element, as :func:`tag` does."""
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is None:
            element._props.pop(name, None)
        else:
            element._props[name] = value
    element.update()


def button(
    text: str, work: Callable[[], Any], *, main: bool = False, id: str, disabled: bool = False
) -> Element:
    """A button."""
    kind = "button main" if main else "button"
    made = tag("button", kind, text, type="button", id=id, disabled=True if disabled else None)
    return made.on("click", lambda: work(), args=[])


def link(text: str, href: str, *, id: str, main: bool = False, download: str | None = None) -> None:
    """A link that looks like a button."""
    kind = "button main" if main else "button"
    tag("a", kind, text, href=href, id=id, download=download)


def _told(made: Element, event: str, change: Change, throttle: float = 0.0) -> Element:
    """Tell of a control's new value, which it keeps when it is drawn anew."""

    def heard(e: Any) -> Any:
        set_attributes(made, value=str(e.args))
        return change(str(e.args))

    return made.on(event, heard, js_handler="(e) => emit(e.target.value)", throttle=throttle)


def select(
    label: str, options: Mapping[str, str], value: str, change: Change, *, id: str
) -> Element:
    """A choice from a list."""
    with tag("label", "field"):
        tag("span", text=label)
        made = tag("select", id=id, value=value)
        with made:
            for key, words in options.items():
                tag("option", text=words, value=key, selected=True if key == value else None)
    return _told(made, "change", change)


def number(
    label: str, value: float, change: Change, *, id: str, low: float, high: float, step: float = 1
) -> Element:
    """A number."""
    with tag("label", "field"):
        tag("span", text=label)
        made = tag("input", type="number", id=id, min=low, max=high, step=step, value=value)
    return _told(made, "change", change)


def slider(
    label: str, value: float, change: Change, *, id: str, low: float, high: float, step: float
) -> Element:
    """A number, by a slider; it is told while it moves, some times a second."""
    with tag("label", "field"):
        shown = tag("span", text=f"{label}: {value:g}")
        made = tag("input", type="range", id=id, min=low, max=high, step=step, value=value)
        set_attributes(made, style="min-width:12rem;padding:0;border:0")

    def moved(text: str) -> Any:
        shown._text = f"{label}: {float(text):g}"
        shown.update()
        return change(text)

    return _told(made, "input", moved, throttle=0.2)


def choices(
    legend: str, options: Mapping[str, str], value: str, change: Change, *, id: str
) -> None:
    """A choice of a few, all seen."""
    with tag("fieldset", id=id):
        tag("legend", text=legend)
        for key, words in options.items():
            with tag("label", "choice"):
                made = tag(
                    "input", type="radio", name=id, value=key, id=f"{id}-{key}",
                    checked=True if key == value else None,
                )  # fmt: skip
                made.on("change", lambda _, key=key: change(key), args=[])
                tag("span", text=words)


def text(words: str, kind: str = "note", **attributes: Any) -> Element:
    """A paragraph."""
    return tag("p", kind, words, **attributes)


def alert(words: str, id: str = "alert") -> None:
    """What went wrong, in a sentence."""
    tag("div", "alert", words, role="alert", id=id)


def empty(words: str, href: str, go: str) -> None:
    """Nothing is here yet, and where to go."""
    with tag("div", "card empty"):
        tag("p", text=words)
        link(go, href, id="go", main=True)


def ask(words: str, yes: str, no: str, work: Callable[[], Any], *, id: str) -> None:
    """Ask before something goes: ``work`` is done once ``yes`` is pressed."""
    with ui.dialog() as dialog, tag("div", "card", role="alertdialog", aria_label=yes):
        text(words)
        with tag("div", "bar"):
            agree = button(yes, work, main=True, id=f"{id}-yes")
            agree.on("click", dialog.close, args=[])
            button(no, dialog.close, id=f"{id}-no")
    dialog.on("hide", dialog.delete)  # the next question is another dialog
    dialog.open()


def svg(content: str) -> Element:
    """A drawing of the studio's own."""
    return ui.html(content, sanitize=False)


def image(address: str, words: str, caption: str = "", *, id: str | None = None) -> None:
    """A picture with what it shows in words, and a line below."""
    with tag("figure"):
        tag("img", src=address, alt=words, id=id)
        if caption:
            tag("figcaption", text=caption)


def table(content: Table, id: str) -> None:
    """A table of text; wide ones scroll by themselves."""
    with (
        tag("div", "wide", tabindex=0, role="region", aria_label=content.title or "table"),
        tag("table", "numbers", id=id),
    ):
        if content.title:
            tag("caption", text=content.title)
        with tag("thead"), tag("tr"):
            for cell in content.header:
                tag("th", text=cell, scope="col")
        with tag("tbody"):
            for row in content.rows:
                with tag("tr"):
                    for i, cell in enumerate(row):
                        tag("td" if i else "th", text=cell, scope=None if i else "row")


def minutes(seconds: float) -> str:
    """A time in words."""
    whole = max(round(seconds), 0)
    if whole < 90:
        return f"{whole} s"
    return f"{round(whole / 60)} min" if whole < 5400 else f"{whole / 3600:.1f} h"


def progress(job: Job) -> Callable[[], State]:
    """A bar with what a job does; call what is returned to show how far it is now."""
    with tag("div", role="status", aria_live="polite"):
        stage = tag("p", text="…", id="stage")
    bar = tag("progress", max=1000, value=0, id="bar", aria_label="progress")
    note = text("", id="progress-note")

    def show() -> State:
        state = job.state()
        steps = f" (step {state.step} of {state.steps})" if state.steps > 1 and state.step else ""
        words = {
            "waiting": state.stage or "waiting", "running": (state.stage or "starting") + steps,
            "paused": "paused", "done": "done", "failed": "failed", "cancelled": "cancelled",
        }  # fmt: skip
        said = words[state.status]
        if stage._text != said:
            stage._text = said
            stage.update()
        set_attributes(bar, value=round(1000 * state.share))
        parts = [state.note] if state.note and state.active else []
        if state.left is not None and state.active:
            parts.append(f"{minutes(state.left)} left in this step")
        if state.seconds:
            parts.append(f"{minutes(state.seconds)} so far")
        note._text = " · ".join(parts)
        note.update()
        return state

    return show
