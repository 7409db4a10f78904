"""docs/map.md says of every file what the file says of itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_map_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("docs_map", ROOT / "docs" / "map.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "map.md").read_text() == module.written(), "run: python docs/map.py"
