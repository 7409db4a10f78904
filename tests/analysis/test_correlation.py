"""Correlations of channels and attributes: against numpy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_subject import images_of, network_of

from fastcam import analysis
from fastcam.analysis.correlation import correlation, strongest
from fastcam.models import Checkpoint
from fastcam.report.figure import png_bytes


@pytest.mark.parametrize("of", ["attended", "masks", "features"])
def test_correlations_equal_numpy(of: str, subject: Checkpoint, data: Path) -> None:
    network, faces = network_of(subject), analysis.open_faces(subject, data)
    images = images_of(subject, faces)
    with torch.no_grad():
        masks, features, logits = network.masks(images), network.features(images), network(images)
    values = {
        "attended": ((1 + masks) * features[:, None]).mean((1, 3, 4)),
        "masks": masks.mean((1, 3, 4)),
        "features": features.mean((2, 3)),
    }[of]
    found = analysis.correlations(subject, faces, of=of, batch_size=5)
    np.testing.assert_allclose(found.channels, np.corrcoef(values.T.double()), atol=1e-4)
    np.testing.assert_allclose(found.attributes, np.corrcoef(logits.T.double()), atol=1e-4)
    np.testing.assert_allclose(found.labels, np.corrcoef(faces.labels.T.double()), atol=1e-6)
    assert not network.features._forward_hooks
    assert not network.binary._forward_pre_hooks


def test_strongest_partners_and_constant_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    values = np.stack([x, -x + 0.01 * rng.normal(size=40), rng.normal(size=40), np.ones(40)], 1)
    matrix = correlation(values)
    assert np.isnan(matrix[3, :3]).all()
    partners = strongest(matrix, 0)
    assert [i for i, _ in partners] == [1, 2]
    assert partners[0][1] < -0.99
    with pytest.raises(ValueError, match="at least 2 images"):
        correlation(values[:1])


def test_a_figure_tells_what_does_not_vary_from_what_does_not_correlate() -> None:
    one = np.eye(3)
    one[2] = one[:, 2] = np.nan
    for channels, labelled in ((one, True), (np.eye(3), False)):
        found = analysis.Correlations(
            "masks", 4, channels, ["a", "b", "c"], np.eye(3), np.eye(3), [0], ["a"]
        )
        axes = found.figure().axes[0]
        assert ("grey" in axes.get_xlabel()) == labelled


@pytest.mark.parametrize("names", [["red", "green", "odd"], ["a"], ["name of an attribute"] * 5])
def test_nothing_of_a_figure_is_cut(names: list[str]) -> None:
    labels = np.eye(len(names))
    found = analysis.Correlations("masks", 4, np.eye(16), names, labels, labels, [0], names[:1])
    shown = np.asarray(Image.open(io.BytesIO(png_bytes(found.figure()))).convert("L"))
    for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]):
        assert edge.min() == 255  # paper
