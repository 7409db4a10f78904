"""Evaluations side by side, as Markdown, HTML or a Rich table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastcam._util.extras import require
from fastcam.evaluation.result import Evaluation


@dataclass(frozen=True)
class Table:
    """A table of text: a header and rows of the same length, the first column naming the row."""

    header: list[str]
    rows: list[list[str]]
    title: str = ""

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return f"**{self.title}**\n\n{body}\n" if self.title else f"{body}\n"

    def to_html(self) -> str:
        """A plain ``<table>``, escaped."""

        def row(cells: list[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{inner}</tr>"

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        body = "".join(row(r, "td") for r in self.rows)
        head = row(self.header, "th")
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"

    @property
    def _short(self) -> bool:
        """Whether the rows' names are words, such as attributes, which should stay in one piece."""
        return all(len(cells[0]) <= 20 for cells in self.rows)

    def to_rich(self) -> Any:
        """A ``rich.table.Table``; where it is too wide, cells are folded and nothing is cut off."""
        table = require("rich.table", extra="train").Table(title=self.title or None)
        for i, name in enumerate(self.header):
            justify = "left" if i == 0 else "right"
            table.add_column(name, justify=justify, overflow="fold", no_wrap=i == 0 and self._short)
        for cells in self.rows:
            table.add_row(*cells)
        return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}%"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def comparison(evaluations: Mapping[str, Evaluation], title: str = "") -> Table:
    """One column a model, one row a measure.

    Args:
        evaluations: by model name; all of the same attributes, region and split.
        title: stands above the table.

    Raises:
        ValueError: nothing to compare, or evaluations of different things.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to tabulate")
    models = list(evaluations.values())
    first = models[0]
    what = {(e.attribute, e.other, e.region, e.data, e.split, e.threshold) for e in models}
    if len(what) > 1:
        raise ValueError(
            f"evaluations of different things cannot be compared: {sorted(map(str, what))}"
        )
    a, b = first.attribute, first.other
    meaning = {"all": f"{first.split} set", "E1": f"E1 = {a} ∩ {b}", "E2": f"E2 = {a} ∩ not {b}"}
    meaning |= {"a": a, "not a": f"not {a}"}

    rows = []
    for subset in first.subsets:
        label = f"accuracy of {a}, {meaning[subset.name]} (n = {subset.images})"
        rows.append([label, *(_percent(e[subset.name].accuracy) for e in models)])
    rows.append(["balanced accuracy", *(_percent(e.balanced_accuracy) for e in models)])
    rows.append(["average precision", *(_number(e.average_precision) for e in models)])
    rows.append(["accuracy, mean of all attributes", *(_percent(e.mean_accuracy) for e in models)])
    if first.region is not None:
        for name in [s.name for s in first.subsets if s.name in ("a", "E1", "E2")]:
            where = f"{meaning[name]}"
            rows.append(
                [f"Grad-CAM energy in {first.region}, {where}",
                 *(_percent(e[name].energy) for e in models)]
            )  # fmt: skip
        for name in [s.name for s in first.subsets if s.name in ("a", "E1", "E2")]:
            rows.append(
                [
                    f"IoU with {first.region}, {meaning[name]}",
                    *(_number(e[name].iou) for e in models),
                ]
            )
        rows.append([f"dead maps, {a}", *(str(e["a"].dead) for e in models)])
    return Table(["", *evaluations], rows, title)
