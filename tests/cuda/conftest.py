"""Makes the helpers of this folder importable; skips what needs a GPU where none is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True)
def _needs_a_gpu(request: pytest.FixtureRequest) -> None:
    """A test marked ``cuda`` runs with ``--device cuda`` alone."""
    if request.node.get_closest_marker("cuda") is None:
        return
    if request.getfixturevalue("device").type != "cuda":
        pytest.skip("needs --device cuda")
