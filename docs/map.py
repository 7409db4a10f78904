"""Writes docs/map.md: the source files, each with the first sentence that it says of itself.

python docs/map.py    (or make format)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "map.md"
FOLDERS = ("fastcam", "csrc", "bench", "examples", "tests/support")
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh"}
HEAD = """# The source files, each in a sentence

Written by `python docs/map.py` (`make format`) from the first sentence of each file; a test keeps
it true. What belongs together, how things are added: [CONTRIBUTING.md](../CONTRIBUTING.md) and
[csrc/README.md](../csrc/README.md).
"""


def first_sentence(path: Path) -> str:
    """Of a module's docstring, or of the comment that a C++ file begins with."""
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = re.match(r"(?:#include .*\n// the instruction set first\n)?((?://.*\n)*)", text)
        assert lines is not None
        said = re.sub(r"^// ?", "", lines[1], flags=re.MULTILINE)
    prose = re.split(r"\n\n|\n {2}", said)[0]  # up to a blank line, a formula or an example
    paragraph = " ".join(prose.split())
    sentence = re.match(r".*?(?<!Fig)(?<!eq)(?<!al)\.(?= |$)", paragraph)
    return (sentence[0] if sentence else paragraph).rstrip(".:")


def written() -> str:
    """What docs/map.md should hold."""
    parts = [HEAD]
    for folder in FOLDERS:
        files = sorted(
            (p for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES),
            key=lambda p: (p.parent, p.name),
        )
        at = None
        for path in files:
            if path.parent != at:
                at = path.parent
                parts.append(f"\n## {at.relative_to(ROOT)}/\n\n")
            sentence = first_sentence(path)
            if sentence:
                parts.append(f"* `{path.name}`: {sentence}\n")
    return "".join(parts)


if __name__ == "__main__":
    OUT.write_text(written())
