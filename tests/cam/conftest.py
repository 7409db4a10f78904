"""The networks of these tests are small; what is done for large ones only is done for them, too."""

from __future__ import annotations

import pytest

from fastcam.cam import products, weight_gradients


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LARGE", 0)
    monkeypatch.setattr(weight_gradients, "LARGE", 0)
