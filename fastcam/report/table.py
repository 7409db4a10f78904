"""A table of text, as Markdown, HTML or a Rich table."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from fastcam._util.extras import require

_NUMBER = re.compile(r"[-+−×≤≥~(]*\s*\.?\d")


@dataclass(frozen=True)
class Table:
    """A table of text: a header and rows of the same length, the first column naming the row."""

    header: list[str]
    rows: list[list[str]]
    title: str = ""

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        rule = ["---:" if self._numbers(i) else "---" for i in range(len(self.header))]
        lines = [[c.replace("|", r"\|") for c in row] for row in (self.header, rule, *self.rows)]
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

    def _numbers(self, column: int) -> bool:
        """Whether some cell of a column begins with a number, which then stand below one another;
        the first names the rows."""
        return column > 0 and any(_NUMBER.match(cells[column]) for cells in self.rows)

    @property
    def _short(self) -> bool:
        """Whether the rows' names are words, such as attributes, which should stay in one piece."""
        return all(len(cells[0]) <= 20 for cells in self.rows)

    def to_rich(self) -> Any:
        """A ``rich.table.Table``; where it is too wide, cells are folded and nothing is cut off."""
        text = require("rich.text", extra="train").Text  # of a str, [left] would be markup
        title = text(self.title, "table.title") if self.title else None
        table = require("rich.table", extra="train").Table(title=title)
        for i, name in enumerate(map(text, self.header)):
            justify = "right" if self._numbers(i) else "left"
            table.add_column(name, justify=justify, overflow="fold", no_wrap=i == 0 and self._short)
        for cells in self.rows:
            table.add_row(*map(text, cells))
        return table
