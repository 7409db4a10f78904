"""Masks by importance: against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_subject import images_of, make_subject, network_of
from tiny_faces import ATTRIBUTES

from fastcam import analysis
from fastcam.analysis.saved import Analysis
from fastcam.models import Checkpoint
from fastcam.report.figure import png_bytes


@pytest.mark.parametrize("hidden", [0, 6])
def test_importance_equals_brute_force(hidden: int, data: Path) -> None:
    subject = make_subject(classifier_hidden=hidden)
    network = network_of(subject)
    images = images_of(subject, analysis.open_faces(subject, data, limit=3))
    with torch.no_grad():
        found = analysis.mask_changes(network, images, [2, 0])
        before = network(images)
        for t, attribute in enumerate([2, 0]):
            for channel in range(network.channels):

                def without(masks: torch.Tensor, k: int = attribute, c: int = channel) -> Any:
                    masks = masks.clone()
                    masks[:, k, c] = 0
                    return masks

                with network.transform(without):
                    change = before - network(images)
                torch.testing.assert_close(found[:, t, channel], change[:, attribute])
                others = [k for k in range(3) if k != attribute]
                assert change[:, others].abs().max() < 1e-5
        with network.transform(torch.zeros_like):
            all_off = (before - network(images))[:, [2, 0]]
    added_up = torch.isclose(found.sum(-1), all_off, atol=1e-5).all()
    assert added_up == (hidden == 0)  # only linear classifiers' changes add up
    faces = analysis.open_faces(subject, data)
    for position, name in enumerate(["Dark", "Lips"]):
        rows = (faces.labels[:3, ATTRIBUTES.index(name)] > 0.5).nonzero().flatten()
        wanted = all_off[rows, position].mean()
        some = analysis.open_faces(subject, data, limit=3)
        (part,) = analysis.top_masks(subject, some, [name], batch_size=1).parts
        assert part.everything == pytest.approx(float(wanted), abs=1e-5)


def test_top_masks_are_those_of_the_highest_importance(subject: Checkpoint, data: Path) -> None:
    network, faces = network_of(subject), analysis.open_faces(subject, data)
    rows = (faces.labels[:, 1] > 0.5).nonzero().flatten()
    with torch.no_grad():
        images = images_of(subject, faces)[rows]
        changes = analysis.mask_changes(network, images, [1])[:, 0]
        masks = network.masks(images, [1])[:, 0]
    (part,) = analysis.top_masks(subject, faces, ["Eyes"], shown=2).parts
    best = changes.mean(0).abs().topk(3).indices.tolist()
    assert part.channels == [best, best]
    assert part.images == len(rows)
    torch.testing.assert_close(part.maps[1], masks[1, best])
    torch.testing.assert_close(part.map_changes[1], changes[1, best])
    assert part.mask_mean == pytest.approx(float(masks.mean()), abs=1e-6)
    (split,) = analysis.top_masks(subject, faces, ["Eyes"], shown=2, batch_size=2).parts
    torch.testing.assert_close(split.changes, part.changes)
    torch.testing.assert_close(split.maps, part.maps)
    # The signs differ: the highest importance is not the highest change.
    assert min(changes.mean(0)[best]) < 0 < max(changes.mean(0)[best])
    assert part.mask_spread == pytest.approx(float(masks.std(correction=0)), abs=1e-6)
    assert part.shown.shape == (2, 32, 32, 3)
    (row,) = analysis.TopMasks([part], 3).tables()[0].rows
    assert [cell.partition(" ")[0] for cell in row[1:4]] == list(map(str, best))
    (some,) = analysis.top_masks(subject, faces, ["Eyes"], images=3, shown=5).parts
    assert (some.images, len(some.shown)) == (3, 3)
    torch.testing.assert_close(some.changes, changes[:3].mean(0))
    with torch.no_grad():
        logits = network(images)[:3, 1]
    assert some.logit_spread == pytest.approx(float(logits.std(correction=0)), abs=1e-5)
    (each,) = analysis.top_masks(subject, faces, ["Eyes"], shown=2, per_image=True).parts
    assert each.channels == changes[:2].abs().topk(3).indices.tolist()


def test_masks_name_what_is_wrong(subject: Checkpoint, data: Path) -> None:
    faces = analysis.open_faces(subject, data)
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        analysis.top_masks(subject, faces, ["Nose"])
    with pytest.raises(ValueError, match="top: expected at most 8"):
        analysis.top_masks(subject, faces, ["Lips"], top=9)
    for name in ("shown", "images", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1"):
            analysis.top_masks(subject, faces, ["Lips"], **{name: 0})
    with pytest.raises(TypeError, match="faces: expected images as .* prepares them, got list"):
        analysis.top_masks(subject, [], ["Lips"])  # type: ignore[arg-type]
    other = replace(subject, attributes=subject.attributes[::-1])
    with pytest.raises(ValueError, match="faces: expected the checkpoint's attributes, in its"):
        analysis.top_masks(other, faces, ["Lips"])  # it took the labels of others for its own
    fitted = replace(subject, preprocessing=replace(subject.preprocessing, fit="face"))
    with pytest.raises(ValueError, match="faces: expected 32 pixels with fit 'face', got 32 with"):
        analysis.top_masks(fitted, faces, ["Lips"])
    faces.labels[:, 2] = 0
    with pytest.raises(ValueError, match="none of the 12 images has Dark"):
        analysis.top_masks(subject, faces, ["Dark"])


def test_names_are_no_formulas(subject: Checkpoint, data: Path) -> None:
    found = analysis.top_masks(
        subject, analysis.open_faces(subject, data), [ATTRIBUTES[0]], images=2
    )
    scores = analysis.AttributeScores(["$\\frac$"], 2, [0.5], [0.5], [0.5], [0.5])
    one = np.eye(1)
    renamed: list[Analysis] = [
        replace(found, parts=[replace(found.parts[0], name="$\\frac$")]),
        scores,
        analysis.Correlations("masks", 4, np.eye(3), scores.names, one, one, [0], scores.names),
    ]
    for result in renamed:
        assert png_bytes(result.figure())
