"""One self-contained HTML page from text, tables and figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ink: #1f6fff; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 1080px; margin: 2.5rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin-bottom: .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
p.lead { font-size: 1.1rem; opacity: .85; margin-top: 0; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--soft); }
caption { caption-side: top; text-align: left; font-weight: 600; padding-bottom: .4rem; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .86rem; }
footer { margin: 3rem 0 1rem; font-size: .82rem; opacity: .7; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page, in this order: heading, text, tables, pictures, preformatted text.

    Attributes:
        heading: plain text.
        text: paragraphs of plain text.
        tables: HTML tables (as :meth:`fastcam.report.Table.to_html` makes them).
        pictures: (alternative text, PNG bytes).
        code: shown as it is.
    """

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[str] = ()
    pictures: Sequence[tuple[str, bytes]] = field(default_factory=tuple)
    code: str = ""


def html_page(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """The page as text; pictures are embedded, nothing is loaded from elsewhere."""
    body = "".join(_section(s) for s in sections)
    end = f"<footer>{html.escape(footer)}</footer>" if footer else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'
        f"{body}{end}</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section><h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    parts += [f'<div class="wide">{table}</div>' for table in section.tables]
    for alternative, png in section.pictures:
        data = base64.b64encode(png).decode("ascii")
        alt = html.escape(alternative, quote=True)
        parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    return "".join([*parts, "</section>"])
