"""Measures worked out by hand; glasses and agreeing images where they belong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_faces import write_faces

from fastcam.data.tables import ATTRIBUTE_TABLE, PARTITION_TABLE, read_attributes, read_partition
from fastcam.evaluation import Predictions
from fastcam.evaluation.reliance_result import Estimate, HiddenRegion, Reliance
from fastcam.experiments.agreeing import agreeing
from fastcam.experiments.arms import BEFORE, CONTROL
from fastcam.experiments.judge import ALTERED, Judged
from fastcam.experiments.measures import Change, Spread, interval_ends, measure
from fastcam.experiments.settings import Pair
from fastcam.experiments.sunglasses import sunglasses
from fastcam.experiments.tables import change_table, network_table
from fastcam.regions import template_landmarks

PAIR = Pair("a", "b", "mouth", "left_eye", 5.0, {})
#                a, b of six images: two of E1, two of E2, two without a
LABELS = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0], [0, 0], [0, 1]]).float()


def _judged(scores: list[float], **changes: object) -> Judged:
    logits = torch.stack([torch.tensor(scores), torch.full((6,), 1.0)], 1)
    predictions = Predictions(
        logits,
        LABELS,
        energy=torch.tensor([0.5, 0.1, float("nan"), 0.3, 0.0, 0.0]),
        iou=torch.tensor([0.4, 0.2, 0.0, 0.2, 0.0, 0.0]),
        dead=torch.tensor([False, False, True, False, False, False]),
        visible=torch.ones(6, dtype=torch.bool),
    )
    hidden = tuple(
        HiddenRegion(n, 4, drop, None, None, None)
        for n, drop in {"mouth": 0.6, "all but mouth": 1.4, "left_eye": 0.9}.items()
    )
    relied = Reliance("a", "mouth", "mean", 6, 1.0, hidden, Estimate(0.3, 0.2, 0.4))
    altered = {ALTERED[0]: torch.tensor([1.0, -1, -1, -1, -1, -1]), ALTERED[1]: logits[:, 0]}
    return Judged(predictions, altered, relied)


def test_measures_by_hand() -> None:
    control = _judged([2, 1, -1, -2, -1, 1])  # one of two right without a
    guided = _judged([3, -1, 0.5, 2.5, 1, 2])  # none is
    found = measure(guided, control, PAIR, ["a", "b"])
    assert found["test"] == pytest.approx(3 / 6)
    assert found["E1"] == pytest.approx(1 / 2)
    assert found["E2"] == pytest.approx(1)
    assert found["not a"] == 0
    # Above a threshold of 1 one of the two without a is right, as in the control: of E2 only 2.5 is
    # above it.
    assert found["E2 at equal not a"] == pytest.approx(1 / 2)
    assert found["energy"] == pytest.approx((0.5 + 0.1 + 0.3) / 3)
    assert found["IoU"] == pytest.approx((0.4 + 0.2 + 0.0 + 0.2) / 4)
    assert found["region only"] == pytest.approx(3 / 6)
    assert found["sunglasses"] == found["test"]
    # One of the four with a is above both without, the others are level with them.
    assert found["AUC region only"] == pytest.approx((2 + 3 * 2 / 2) / 8)
    # 3 and 2.5 are above 1 and 2 (2.5 above both), 0.5 and -1 below.
    assert found["AUC sunglasses"] == pytest.approx(4 / 8)
    assert (found["relies on region"], found["drop region"], found["drop elsewhere"]) == (
        0.3, 0.6, 0.9,
    )  # fmt: skip
    same = measure(control, control, PAIR, ["a", "b"])
    assert same["E2 at equal not a"] == same["E2"] == 0


def test_a_share_of_drops_that_are_noise_is_none() -> None:
    def relied(inside: float, outside: float) -> float | None:
        judged = _judged([2.0, 1.0, -1.0, 0.5, -2.0, -0.5])
        drops = {"mouth": inside, "all but mouth": outside, "left_eye": 0.9}
        hidden = tuple(HiddenRegion(n, 4, d, None, None, None) for n, d in drops.items())
        judged = replace(judged, reliance=replace(judged.reliance, hidden=hidden))
        return measure(judged, judged, PAIR, ["a", "b"])["relies on region"]

    assert relied(0.09, 0.02) is None
    assert relied(0.09, 0.11) == relied(0.1, -0.3) == relied(0.6, 1.4) is not None


def test_changed_images_of_one_kind_have_no_auc() -> None:
    judged = _judged([2.0, 1.0, -1.0, 0.5, -2.0, -0.5])
    few = {ALTERED[0]: torch.tensor([1.0, -1.0, 3.0])}  # all with a; no glasses
    found = measure(replace(judged, altered=few), judged, PAIR, ["a", "b"])
    assert found["region only"] == pytest.approx(2 / 3)
    assert found["AUC region only"] is None and found["AUC sunglasses"] is None


def test_one_training_has_intervals_of_its_accuracies() -> None:
    control, guided = _judged([2, 1, -1, -2, -1, 1]), _judged([3, -1, 0.5, 2.5, 1, 2])
    found, same = (measure(j, control, PAIR, ["a", "b"]) for j in (guided, control))
    # Both of E2 are gained, which says little of others; of E1 one of two is lost: 0, 1 or 2 of two
    # drawn.
    assert [found[end] for end in interval_ends("E2")] == [pytest.approx(-0.3487, abs=1e-4), 1]
    assert [found[end] for end in interval_ends("E1")] == [-1, 0]
    assert not any(end in same for end in interval_ends("E2"))
    measured = {BEFORE: [found], CONTROL: [same], "guided": [found]}
    table = change_table(measured, "minus the control", ("E1", "E2", "energy"))
    (row,) = table.rows
    assert row == ["guided", "-50.0 (-100.0 to +0.0)", "+100.0 (-34.9 to +100.0)", "+0.0"]
    assert "(one training; accuracies: 95% paired bootstrap interval" in table.title
    bare = change_table(measured, "minus the control", ("energy",))
    assert bare.title == "minus the control (one training, without intervals)"
    twice = {name: [values[0], values[0]] for name, values in measured.items()}
    table = change_table(twice, "minus the control", ("E1",))
    assert table.title == "minus the control (95% t interval over trainings)"
    assert table.rows[0][1] == "-50.0 (-50.0 to -50.0)"


def test_a_mean_over_fewer_trainings_says_so() -> None:
    control = [{"test": v, "E2": v} for v in (0.5, 0.6, 0.7)]
    guided = [{"test": 0.6, "E2": None}, None, {"test": 0.9, "E2": 0.8}]
    measured = {CONTROL: control, "guided": guided, "lost": [None, None, None]}
    networks = {r[0]: r[1:] for r in network_table(measured, "", names=("test", "E2")).rows}
    assert networks[CONTROL] == ["60.0 ± 10.0", "60.0 ± 10.0"]
    assert networks["guided"] == ["75.0 ± 21.2 (2 of 3)", "80.0 (1 of 3)"]
    assert networks["lost"] == ["diverged"] * 2
    ((_, test, e2),) = change_table(measured, "", ("test", "E2")).rows
    assert test.startswith("+15.0 (") and test.endswith(") (2 of 3)")
    assert e2 == "+10.0 (1 of 3)"  # of one training there is no interval over trainings


def test_spread_and_change_by_hand() -> None:
    assert Spread.of([1.0, None, 3.0]) == Spread(2.0, pytest.approx(2**0.5), 2)
    assert Spread.of([None]) == Spread(None, None, 0)
    one = Change.of([0.5, None], [0.25, 0.1])
    assert (one.mean, one.low, one.count) == (0.25, None, 1)
    # Differences 1, 2, 3: standard deviation 1, t of two degrees of freedom 4.303.
    three = Change.of([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert three.mean == pytest.approx(2)
    assert three.high == pytest.approx(2 + 4.303 / 3**0.5)
    many = Change.of([(-1.0) ** n for n in range(20)], [0.0] * 20)
    assert many.high == pytest.approx(2.09302 / math.sqrt(19), rel=1e-4)  # Student's t, 19 degrees


def test_glasses_cover_the_eyes_and_not_the_mouth() -> None:
    points = torch.from_numpy(np.array(template_landmarks(128, 128)))[None].repeat(2, 1, 1)
    points[1, :, 0] += 9  # a face that stands further right
    images = torch.full((2, 3, 128, 128), 200, dtype=torch.uint8)
    worn = sunglasses(images, points)
    changed = (worn != images).any(1)
    for face in range(2):
        for eye in (slice(36, 42), slice(42, 48)):
            x, y = points[face, eye].mean(0).round().long()
            assert changed[face, y, x]
        x, y = points[face, 48:60].mean(0).round().long()
        assert not changed[face, y - 3 : y + 3, x - 8 : x + 8].any()
        assert 0.02 < changed[face].float().mean() < 0.2
    assert torch.equal(images, torch.full_like(images, 200))
    lost = points.clone()
    lost[0] = float("nan")
    assert torch.equal(sunglasses(images, lost)[0], images[0])


def test_agreeing_images_alone_are_left_to_train_on(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 48)
    out = agreeing(data, tmp_path / "agreeing", "Lips", "Eyes")
    before = read_attributes(data / ATTRIBUTE_TABLE)
    table, splits = read_attributes(out / ATTRIBUTE_TABLE), read_partition(out / PARTITION_TABLE)
    part = [
        name
        for name, (lips, eyes, _) in zip(before.names, before.values, strict=True)
        if lips != eyes and read_partition(data / PARTITION_TABLE)[name] == 0
    ]
    assert part
    assert set(before.names) - set(table.names) == set(part)
    rows = dict(zip(before.names, before.values.tolist(), strict=True))
    assert all(rows[n] == v for n, v in zip(table.names, table.values.tolist(), strict=True))
    assert set(splits) == set(table.names)
    assert agreeing(data, out, "Lips", "Eyes") == out  # again
    with pytest.raises(ValueError, match="no attribute 'Nose'"):
        agreeing(data, out, "Lips", "Nose")
