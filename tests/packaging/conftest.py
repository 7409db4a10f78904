"""What the tests of the build share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    return tmp_path / "no-such-directory"
