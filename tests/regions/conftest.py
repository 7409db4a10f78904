"""Faces for the region tests: the template, moved and jittered."""

from __future__ import annotations

import numpy as np
import pytest

from fastcam.regions import template_landmarks


@pytest.fixture
def faces() -> np.ndarray:
    """float64 [16, 68, 2]: upright faces of varied place, size, turn and expression."""
    rng = np.random.default_rng(7)
    points = template_landmarks().astype(np.float64)
    centre = points.mean(0)
    out = []
    for _ in range(16):
        angle = rng.uniform(-0.3, 0.3)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        face = (points - centre) * rng.uniform(0.7, 1.3, 2) @ turn.T + centre
        out.append(face + rng.uniform(-20, 20, 2) + rng.normal(0, 1.0, (68, 2)))
    return np.array(out)
