"""What a person has pointed at: regions, rectangles and a painted mask on the template face."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastcam.regions import Region

#: Columns and rows of the squares of the template face that can be painted.
PAINT = (36, 44)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pointing:
    """Where to look, and what to do without.

    Attributes:
        names: regions to look at: of a face's ten, or of the data's masks.
        boxes: rectangles on the template face, x0, y0, x1, y1 in fractions.
        painted: squares of the template face, row times columns plus column (see ``PAINT``).
        avoid: regions not to look at.
    """

    names: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    painted: tuple[int, ...] = ()
    avoid: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nowhere to look."""
        return not (self.names or self.boxes or self.painted)

    @property
    def text(self) -> str:
        """The region as ``fastcam finetune --region`` reads it; empty if there is none."""
        boxes = [*self.boxes, *rectangles_of(self.painted)]
        return ",".join([*self.names, *(",".join(f"{side:g}" for side in box) for box in boxes)])

    @property
    def avoid_text(self) -> str:
        """What ``--without`` gets; empty if nothing is to be avoided."""
        return ",".join(self.avoid)

    @property
    def words(self) -> str:
        """In a few words."""
        parts = [name.replace("_", " ") for name in self.names]
        if self.boxes:
            parts.append("a rectangle" if len(self.boxes) == 1 else f"{len(self.boxes)} rectangles")
        if self.painted:
            parts.append("a painted mask")
        return ", ".join(parts) or "nothing yet"

    def toggle(self, name: str, away: bool = False) -> Pointing:
        """With a region or, if it was chosen, without it; it is never looked at and avoided."""
        here, there = (self.avoid, self.names) if away else (self.names, self.avoid)
        chosen = tuple(n for n in here if n != name) if name in here else (*here, name)
        other = tuple(n for n in there if n != name)
        names, avoid = (other, chosen) if away else (chosen, other)
        return replace(self, names=names, avoid=avoid)

    def add_box(self, box: Sequence[float]) -> Pointing:
        """With a rectangle, its corners in any order, cut to the template face.

        Raises:
            ValueError: it covers nothing.
        """
        x0, y0, x1, y1 = (min(max(float(side), 0.0), 1.0) for side in box)
        sides = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        made = Region(boxes=(sides,)).boxes[0]  # says what is wrong with it
        return replace(self, boxes=tuple(dict.fromkeys([*self.boxes, made])))

    def paint(self, cells: Iterable[int], erase: bool = False) -> Pointing:
        """With these squares painted, or bare."""
        columns, rows = PAINT
        given = {int(c) for c in cells if 0 <= int(c) < columns * rows}
        kept = set(self.painted) - given if erase else set(self.painted) | given
        return replace(self, painted=tuple(sorted(kept)))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "names": list(self.names),
            "boxes": [list(box) for box in self.boxes],
            "painted": list(self.painted),
            "avoid": list(self.avoid),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Pointing:
        """The reverse of :meth:`to_json`."""
        boxes = tuple((b[0], b[1], b[2], b[3]) for b in values["boxes"])
        return cls(tuple(values["names"]), boxes, tuple(values["painted"]), tuple(values["avoid"]))


def brush(x: float, y: float, radius: int) -> list[int]:
    """Squares within a round brush.

    Args:
        x, y: its middle in fractions of the template face.
        radius: in squares; 0 paints one.
    """
    columns, rows = PAINT
    column, row = int(x * columns), int(y * rows)
    reach = range(-radius, radius + 1)
    return [
        (row + dy) * columns + column + dx
        for dy in reach
        for dx in reach
        if dx * dx + dy * dy <= radius * radius + 0.5
        and 0 <= column + dx < columns
        and 0 <= row + dy < rows
    ]


def rectangles_of(painted: Collection[int]) -> list[Box]:
    """Rectangles that together cover the painted squares and nothing else.

    Such a text is what the library's regions, and so the command line, read; each is carried to a
    face by its landmarks as a drawn rectangle is.
    """
    columns, rows = PAINT
    left, found = set(painted), []
    while left:
        first = min(left)
        row, column = divmod(first, columns)
        width = 1
        while column + width < columns and first + width in left:
            width += 1
        height = 1
        while row + height < rows and all(
            first + height * columns + i in left for i in range(width)
        ):
            height += 1
        left -= {first + j * columns + i for j in range(height) for i in range(width)}
        box = (column, row, column + width, row + height)
        sides = [round(v / (rows if i % 2 else columns), 6) for i, v in enumerate(box)]
        found.append((sides[0], sides[1], sides[2], sides[3]))
    return found
