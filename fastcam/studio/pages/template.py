"""The template face as something to point at: by mouse, by finger and by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.element import Element

from fastcam.regions import TEMPLATE_SIZE
from fastcam.studio.drawing import painted_path, template_boxes, template_path
from fastcam.studio.pages.widgets import set_attributes, tag
from fastcam.studio.pointing import PAINT, Box, Pointing, brush

WIDTH, HEIGHT = TEMPLATE_SIZE
TOOLS = {
    "regions": "choose regions",
    "rectangle": "draw a rectangle",
    "paint": "paint a mask",
    "erase": "erase",
}
#: From an event to where it is on the face, in fractions; None of it depends on the page's layout.
_WHERE = """(e) => {{
  const r = document.getElementById('template').getBoundingClientRect();
  {extra}
  emit({{x: (e.clientX - r.left) / r.width, y: (e.clientY - r.top) / r.height, buttons: e.buttons,
         t: e.type}});
}}"""
_STEP = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}


class TemplateFace:
    """The template face with its ten regions, what is drawn on it and what is painted.

    Args:
        now: what is pointed at.
        change: called with the new pointing.
    """

    def __init__(self, now: Callable[[], Pointing], change: Callable[[Pointing], None]) -> None:
        self.now, self.change = now, change
        self.tool, self.away, self.radius = "regions", False, 1
        self._from: tuple[float, float] | None = None
        self._stroke: set[int] | None = None
        self._last: tuple[float, float] | None = None
        self._cursor = (PAINT[0] // 2, PAINT[1] // 2)
        self._regions: dict[str, Element] = {}

    def build(self) -> None:
        """Draw it."""
        self.svg = tag(
            "svg", "template big", id="template", viewBox=f"0 0 {WIDTH} {HEIGHT}", tabindex=-1,
            role="group", aria_label="Template face",
        )  # fmt: skip
        with self.svg:
            boxes = sorted(template_boxes().items(), key=lambda item: -item[1][2] * item[1][3])
            for name, (x, y, width, height) in boxes:
                self._regions[name] = self._region(name, x, y, width, height)
            tag("path", "face", d=template_path())
            self._painted = tag("path", "painted", id="painted", d="")
            self._boxes = tag("g", id="boxes")
            self._drawing = tag("rect", "drawing", id="drawing", width=0, height=0)
            self._brush = tag("rect", "brush", id="brush", width=0, height=0)
        capture = (
            "const s = document.getElementById('template');"
            " if (s.classList.contains('still')) { s.setPointerCapture(e.pointerId); }"
        )
        self.svg.on("pointerdown", self._down, js_handler=_WHERE.format(extra=capture))
        moving = _WHERE.format(extra="if (!e.buttons) return;")
        self.svg.on("pointermove", self._move, js_handler=moving, throttle=0.03)
        self.svg.on("pointerup", self._up, js_handler=_WHERE.format(extra=""))
        self.svg.on("pointercancel", self._drop, args=[])
        keys = (
            "(e) => { if (e.key.startsWith('Arrow') || (e.target.id === 'template' &&"
            " (e.key === ' ' || e.key === 'Enter'))) { e.preventDefault();"
            " emit({key: e.key, shift: e.shiftKey, self: e.target.id === 'template'}); } }"
        )
        self.svg.on("keydown", self._key, js_handler=keys)
        self.show()

    def _region(self, name: str, x: float, y: float, width: float, height: float) -> Element:
        made = tag(
            "rect", "region", id=f"region-{name}", x=x, y=y, width=width, height=height, rx=2,
            role="checkbox", tabindex=0, aria_label=name.replace("_", " "), aria_checked="false",
        )  # fmt: skip
        made.on("click", lambda: self._toggle(name), args=[])
        press = "(e) => { if (e.key === ' ' || e.key === 'Enter') { e.preventDefault(); emit(); } }"
        made.on("keydown", lambda: self._toggle(name), js_handler=press)
        return made

    def _toggle(self, name: str) -> None:
        if self.tool == "regions":
            self.change(self.now().toggle(name, self.away))

    def use(self, tool: str) -> None:
        """Take another tool."""
        self._drop()
        self.tool = tool
        still = self.tool != "regions"
        self.svg.classes(add="still" if still else "", remove="" if still else "still")
        set_attributes(self.svg, tabindex=0 if self.tool in ("paint", "erase") else -1)
        self.show()

    # --- mouse and finger -------------------------------------------------------------------------

    def _drop(self) -> None:
        """Leave a rectangle or stroke that was begun, and whose end may never be heard of."""
        if self._from is not None or self._stroke is not None:
            self._from = self._stroke = None
            self._draw((0, 0, 0, 0))
            self.show()

    def _down(self, event: Any) -> None:
        self._drop()
        x, y = event.args["x"], event.args["y"]
        if self.tool == "rectangle":
            self._from = (x, y)
        elif self.tool in ("paint", "erase"):
            self._stroke, self._last = set(), None
            self._dab(x, y)

    def _move(self, event: Any) -> None:
        x, y = event.args["x"], event.args["y"]
        if self._from is not None:
            self._draw((*self._from, x, y))
        elif self._stroke is not None:
            self._dab(x, y)

    def _up(self, event: Any) -> None:
        x, y = event.args["x"], event.args["y"]
        if self._from is not None:
            box, self._from = (*self._from, x, y), None
            self._draw((0, 0, 0, 0))
            if abs(box[2] - box[0]) > 0.01 and abs(box[3] - box[1]) > 0.01:
                self.change(self.now().add_box(box))
        elif self._stroke is not None:
            self._dab(x, y)
            stroke, self._stroke = self._stroke, None
            self.change(self.now().paint(stroke, self.tool == "erase"))

    def _draw(self, box: Box) -> None:
        x0, x1 = (v * WIDTH for v in sorted((box[0], box[2])))
        y0, y1 = (v * HEIGHT for v in sorted((box[1], box[3])))
        set_attributes(
            self._drawing, x=round(x0, 1), y=round(y0, 1), width=round(x1 - x0, 1),
            height=round(y1 - y0, 1),
        )  # fmt: skip

    def _dab(self, x: float, y: float) -> None:
        """Paint from where the brush was last."""
        assert self._stroke is not None
        x0, y0 = self._last or (x, y)
        steps = 1 + int(max(abs(x - x0) * PAINT[0], abs(y - y0) * PAINT[1]))
        for i in range(steps + 1):
            t = i / steps
            self._stroke |= set(brush(x0 + t * (x - x0), y0 + t * (y - y0), self.radius))
        self._last = (x, y)
        shown = self.now().paint(self._stroke, self.tool == "erase")
        set_attributes(self._painted, d=painted_path(shown.painted))

    # --- keyboard ---------------------------------------------------------------------------------

    def _key(self, event: Any) -> None:
        if self.tool not in ("paint", "erase"):
            return
        key, columns, rows = event.args["key"], *PAINT
        if key in _STEP:
            dx, dy = _STEP[key]
            column, row = self._cursor
            self._cursor = (min(max(column + dx, 0), columns - 1), min(max(row + dy, 0), rows - 1))
            self._show_brush()
        elif event.args["self"]:
            x, y = ((c + 0.5) / n for c, n in zip(self._cursor, PAINT, strict=True))
            self.change(self.now().paint(brush(x, y, self.radius), self.tool == "erase"))

    def _show_brush(self) -> None:
        side = 2 * self.radius + 1 if self.tool in ("paint", "erase") else 0
        width, height = WIDTH / PAINT[0], HEIGHT / PAINT[1]
        column, row = self._cursor
        set_attributes(
            self._brush, x=round((column - self.radius) * width, 1),
            y=round((row - self.radius) * height, 1), width=round(side * width, 1),
            height=round(side * height, 1),
        )  # fmt: skip

    # --- what is shown ----------------------------------------------------------------------------

    def show(self) -> None:
        """Show what is pointed at."""
        pointing = self.now()
        for name, element in self._regions.items():
            away, chosen = name in pointing.avoid, name in pointing.names
            words = name.replace("_", " ") + (", not to look at" if away else "")
            set_attributes(
                element, aria_checked="true" if chosen or away else "false", aria_label=words
            )
            element.classes(add="away" if away else "", remove="" if away else "away")
        set_attributes(self._painted, d=painted_path(pointing.painted))
        self._boxes.clear()
        with self._boxes:
            for i, (x0, y0, x1, y1) in enumerate(pointing.boxes):
                tag(
                    "rect", "drawn", id=f"box-{i}", x=round(x0 * WIDTH, 1), y=round(y0 * HEIGHT, 1),
                    width=round((x1 - x0) * WIDTH, 1), height=round((y1 - y0) * HEIGHT, 1),
                )  # fmt: skip
        self._show_brush()
