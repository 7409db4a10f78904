"""Fixtures: data and a small attention network, for the analyses and their verbs."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_subject import make_subject
from tiny_faces import write_faces

from fastcam.models import save_checkpoint


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("network") / "model.pt", make_subject())
