"""Data and a network for the tests of the analyses."""

from __future__ import annotations

from pathlib import Path

import pytest
from attention_fixtures import data, model

from fastcam import analysis
from fastcam.models import Checkpoint

__all__ = ["data", "model"]


@pytest.fixture
def subject(model: Path) -> Checkpoint:
    return analysis.load_attention(model)
