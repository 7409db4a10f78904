"""Point: where the network should look, and which cells that is on six images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastcam.report.numbers import percent
from fastcam.studio.core import Studio, Subject
from fastcam.studio.drawing import cells_svg
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.parts import Part, aside
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.pages.template import TOOLS, TemplateFace
from fastcam.studio.pictures import data_url, plain
from fastcam.studio.pointing import Pointing

#: Images on which the cells are shown: the one that was looked at, and others.
IMAGES = 6


class PointPage:
    """The page of one visit."""

    def __init__(self, studio: Studio, people: People) -> None:
        session = people.here()
        self.studio, self.session = studio, session
        self.subject = studio.of(session)
        self.face = TemplateFace(lambda: session.pointing, self.point)
        self.sides = [0.3, 0.6, 0.7, 0.8]
        count = len(self.subject.faces)
        first = min(session.image, count - 1)
        self.rows = [first, *(i for i in range(count) if i != first)][:IMAGES]
        self.pictures: list[str] = []  # of these images, once they have been shown

    def build(self) -> None:
        """Lay the page out."""
        name = self.session.attribute.replace("_", " ")
        lead = (
            f"Say where the evidence for {name} is. What you point at on the template face is "
            "carried to every image by its landmarks."
            if self.subject.template
            else f"Say which of the data's masks hold the evidence for {name}."
        )
        with page("/point", "Where should it look?", lead), w.tag("div", "two"):
            with w.tag("section", "card", aria_label="Pointing"):
                if self.subject.template:
                    self.build_face()
                else:
                    self.masks = Part(self.build_masks, id="masks")
                self.summary = Part(self.build_summary, id="summary")
            with w.tag("section", "card", aria_label="Cells"):
                w.tag("h2", text="Cells that this covers")
                rows, columns = self.subject.cells
                w.text(f"The map has {rows} × {columns} cells; the bluer, the more is covered.")
                if self.subject.unplaced:
                    w.text(self.subject.unplaced, id="unplaced")
                self.cells = Part(self.build_cells, id="cells")

    def build_face(self) -> None:
        """The template with its tools."""
        w.choices("With", TOOLS, "regions", self.tool, id="tool")
        self.wishes = Part(self.build_wishes, id="wishes")
        self.face.build()
        with w.tag("details"):
            w.tag("summary", text="A rectangle by numbers, and the width of the brush")
            with w.tag("div", "bar"):
                for i, side in enumerate(("left", "top", "right", "bottom")):
                    w.number(
                        side, self.sides[i], self.side(i), id=f"side-{side}", low=0, high=1,
                        step=0.01,
                    )  # fmt: skip
                w.button("Add the rectangle", self.add, id="add-rectangle")
            w.number(
                "brush, squares", self.face.radius, self.brush, id="brush-width", low=0, high=6
            )

    def build_wishes(self) -> None:
        """Whether what is chosen next is to be looked at: of regions alone may it be otherwise."""
        wishes = {"here": "look here", "away": "do not look there"}
        if self.face.tool != "regions":
            del wishes["away"]
        w.choices("What you choose is where to", wishes, "here", self.wish, id="wish")

    def tool(self, name: str) -> None:
        """Another tool."""
        self.face.use(name)
        self.wish("here")
        self.wishes.refresh()

    def wish(self, name: str) -> None:
        """Whether regions are chosen to be looked at, or not to be."""
        self.face.away = name == "away"

    def brush(self, text: str) -> None:
        """A wider or narrower brush."""
        self.face.radius = min(max(int(_float(text, 1)), 0), 6)
        self.face.show()

    def side(self, i: int) -> Callable[[str], None]:
        """What takes a side of the rectangle."""

        def take(text: str) -> None:
            self.sides[i] = _float(text, self.sides[i])

        return take

    def add(self) -> None:
        """Add the rectangle of the numbers."""
        try:
            x0, y0, x1, y1 = self.sides
            self.point(self.session.pointing.add_box((x0, y0, x1, y1)))
        except EXPECTED as error:
            self.summary.refresh(sentence(error))

    def build_masks(self) -> None:
        """The data's masks, where there is no template."""
        pointing = self.session.pointing
        if not self.subject.regions:
            w.alert("These data have no regions: `fastcam init` says how masks are added.")
            return
        with w.tag("fieldset"):
            w.tag("legend", text="Look here")
            for name in self.subject.regions:
                with w.tag("label", "choice"):
                    made = w.tag(
                        "input", type="checkbox", id=f"region-{name}",
                        checked=True if name in pointing.names else None,
                    )  # fmt: skip
                    made.on("change", partial(self.toggle, name), args=[])
                    w.tag("span", text=name)

    # --- what was chosen --------------------------------------------------------------------------

    def point(self, pointing: Pointing) -> None:
        """Point elsewhere."""
        self.session.point(pointing)
        self.renew()

    def toggle(self, name: str) -> None:
        """With a mask or without."""
        self.point(self.session.pointing.toggle(name))

    def undo(self) -> None:
        """As before."""
        self.session.take_back()
        self.renew()

    def clear(self) -> None:
        """Nothing."""
        self.point(Pointing())

    def renew(self) -> None:
        """Show what is chosen now."""
        if self.subject.template:
            self.face.show()
        else:
            self.masks.refresh()
        self.summary.refresh()
        self.cells.refresh()

    def build_summary(self, wrong: str = "") -> None:
        """What is chosen, in words, and what can be done with it."""
        pointing = self.session.pointing
        with w.tag("div", role="status", aria_live="polite"):
            w.text(f"Look here: {pointing.words}.", "", id="chosen")
            if pointing.avoid:
                names = ", ".join(name.replace("_", " ") for name in pointing.avoid)
                w.text(
                    f"Not there: {names}. These are hidden in a quarter of the training images, so "
                    "that the network learns to do without them.", "note", id="avoided",
                )  # fmt: skip
        if wrong:
            w.alert(wrong)
        with w.tag("div", "bar"):
            w.button("Undo", self.undo, id="undo", disabled=not self.session.undo)
            w.button("Clear", self.clear, id="clear", disabled=pointing == Pointing())
            if not pointing.empty:
                w.link("Direct it there", "/direct", id="go-direct", main=True)

    async def build_cells(self) -> None:
        """The cells on the image that was looked at and on others."""
        pointing, subject, rows = self.session.pointing, self.subject, self.rows
        if not self.pictures:
            self.pictures = await aside(_pictures, subject, rows)
        covered = None
        if not pointing.empty:
            covered = await aside(subject.covered, pointing.text, rows)
        with w.tag("div", "three"):
            for i, (row, shown) in enumerate(zip(rows, self.pictures, strict=True)):
                grid = np.zeros(subject.cells, np.float32) if covered is None else covered[i]
                share = percent(float(grid.mean()), 0)
                words = f"image {row + 1}: the region covers {share} of the cells"
                with w.tag("figure"):
                    w.svg(cells_svg(shown, grid, words, row))
                    if covered is not None:
                        w.tag("figcaption", text=f"{share} covered")
        if covered is not None and not covered.any():
            w.alert("This covers no cell on these images.")


def _pictures(subject: Subject, rows: list[int]) -> list[str]:
    return [data_url(plain(image)) for image in subject.images(rows)]


def _float(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise
