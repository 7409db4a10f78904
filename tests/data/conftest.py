"""A folder of images with labels and masks, for the tests of data."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_masks import write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))
