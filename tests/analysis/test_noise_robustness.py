"""Noise, transformations of the masks and the search among them; tone curves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_subject import network_of

from fastcam import analysis
from fastcam.analysis.curves import pair_styles
from fastcam.analysis.noise import image_noise
from fastcam.evaluation import bootstrap_interval
from fastcam.models import Checkpoint
from fastcam.report.figure import png_bytes

PAIRS = [(1.0, 0.0), (0.0, 0.0), (2.0, 0.5), (0.5, 1.0)]
SIGMAS = [0.0, 0.2, 0.5]


def test_one_forward_pass_for_each_noise_level(subject: Checkpoint, data: Path) -> None:
    faces, calls = analysis.open_faces(subject, data), []
    network_of(subject).features.register_forward_hook(lambda *_: calls.append(1))
    analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, batch_size=12)
    assert len(calls) == len(SIGMAS)


def test_sequences_equal_single_runs(subject: Checkpoint, data: Path) -> None:
    faces = analysis.open_faces(subject, data)
    together = analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, seed=3)
    assert together.right.shape == (3, 4, 12)
    for j, pair in enumerate(PAIRS):
        for s, sigma in enumerate(SIGMAS):
            alone = analysis.noise_accuracy(subject, faces, [pair], [sigma], seed=3, batch_size=5)
            assert torch.equal(alone.right[0, 0], together.right[s, j])
    assert len({tuple(row) for row in together.right[1].tolist()}) > 1, "no (n, β) changes anything"
    other = analysis.noise_accuracy(subject, faces, PAIRS, SIGMAS, seed=4)
    assert torch.equal(other.right[0], together.right[0])  # without noise the seed does nothing
    assert not torch.equal(other.right, together.right)


def test_analyses_run_in_eval_mode_and_leave_the_mode(subject: Checkpoint, data: Path) -> None:
    faces, network = analysis.open_faces(subject, data), network_of(subject)

    def found() -> list[Any]:
        masks = analysis.top_masks(subject, faces, ["Lips"], batch_size=2)
        related = analysis.correlations(subject, faces, batch_size=5)
        noisy = analysis.noise_accuracy(subject, faces, [(2, 0.5)], [0.2], batch_size=5)
        return [masks.to_json(), related.to_json(), noisy.right.tolist()]

    wanted = found()
    network.train()
    assert found() == wanted
    assert network.training


def test_without_noise_and_transformation_it_is_plain_accuracy(
    subject: Checkpoint, data: Path
) -> None:
    faces = analysis.open_faces(subject, data)
    found = analysis.noise_accuracy(subject, faces, [(1, 0)], [0])
    plain = analysis.attributes(subject, faces).means()
    assert float(found.accuracy) == pytest.approx(plain["accuracy"])
    assert found.majority == pytest.approx(plain["majority"])


def test_noise_is_added_before_normalisation_and_clipped() -> None:
    images, noise = torch.full((1, 3, 2, 2), 0.9), torch.ones(1, 3, 2, 2)
    assert torch.equal(analysis.add_noise(images, 0.5, noise), torch.ones(1, 3, 2, 2))
    low = analysis.add_noise(images, 0.5, -noise)
    torch.testing.assert_close(low, torch.full((1, 3, 2, 2), 0.4))
    assert torch.equal(images, torch.full((1, 3, 2, 2), 0.9))
    assert not analysis.add_noise(images, 1.0, -noise).any()


def test_the_noise_of_an_image_is_its_own() -> None:
    noise = image_noise((3, 16, 16), 5, torch.tensor([4, 7, 4]))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1
    assert torch.equal(image_noise((3, 16, 16), 5, torch.tensor([7]))[0], noise[1])


def _accuracies(right: torch.Tensor) -> analysis.NoiseAccuracy:
    return analysis.NoiseAccuracy([0.0, 0.5], PAIRS[:3], right, 0.5)


def test_the_search_picks_on_validation_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    valid = torch.rand(2, 3, 50, generator=generator)
    valid[:, 2] += 0.5
    test = torch.rand(2, 3, 80, generator=generator)
    found = analysis.search(_accuracies(valid), _accuracies(test))
    assert found.pair == PAIRS[2]
    test[:, 1] += 5
    again = analysis.search(_accuracies(valid), _accuracies(test))
    assert again.pair == PAIRS[2]
    assert again.accuracy == found.accuracy
    expected = (test[:, 2] - test[:, 0]).double()
    assert found.mean_difference == pytest.approx(float(expected.mean()))
    for (low, high), difference in zip(found.intervals, expected.mean(-1), strict=True):
        assert low < float(difference) < high
    assert found.mean_interval == bootstrap_interval(expected.mean(0).numpy())
    assert found.intervals[0] == bootstrap_interval(expected[0].numpy())
    row, mean = (found.table().rows[i] for i in (0, -1))
    gains = [100 * float(expected[0].mean()), 100 * float(expected.mean())]
    assert [float(line[3]) for line in (row, mean)] == pytest.approx(gains, abs=0.006)
    equal = analysis.search(_accuracies(torch.ones(2, 3, 4)), _accuracies(test))
    assert equal.pair == (1.0, 0.0)
    assert equal.mean_difference == 0.0
    valid[:, 1] += 2
    assert analysis.search(_accuracies(valid), _accuracies(test)).pair == (0.0, 0.0)
    masked = analysis.search(_accuracies(valid), _accuracies(test), flat=False)
    assert masked == dataclasses.replace(found, valid=masked.valid)
    assert list(masked.valid) == [PAIRS[0], PAIRS[2]]
    assert "among n > 0" in masked.table().title
    with pytest.raises(ValueError, match="pairs and noise levels of valid"):
        analysis.search(_accuracies(valid), analysis.NoiseAccuracy([0.0], PAIRS[:3], test[:1], 0.5))


def test_robustness_puts_the_trained_point_first(subject: Checkpoint, data: Path) -> None:
    test, valid = (analysis.open_faces(subject, data, s) for s in ("test", "valid"))
    assert not set(test.names) & set(valid.names)
    found = analysis.robustness(subject, test, valid, pairs=[(2, 0.5), (1, 0)], sigmas=[0, 0.3])
    assert found.test.pairs == [(1.0, 0.0), (2.0, 0.5)]
    assert found.search is not None
    alone = analysis.noise_accuracy(subject, valid, found.test.pairs, [0, 0.3], seed=1)
    assert list(found.search.valid.values()) == pytest.approx(alone.accuracy.mean(0).tolist())
    assert found.search.pair == alone.pairs[int(alone.accuracy.mean(0).argmax())]
    assert analysis.robustness(subject, test, pairs=[(2, 0)], sigmas=[0]).search is None
    assert found.masked is None
    assert len(found.tables()) == 2


def test_where_no_mask_takes_part_the_search_goes_on_among_masks(
    subject: Checkpoint, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation images that n = 0 judges best."""
    test, valid = (analysis.open_faces(subject, data, s) for s in ("test", "valid"))
    kept = analysis.robustness.__globals__["noise_accuracy"]

    def flat_is_best(*arguments: Any, what: str, **options: Any) -> analysis.NoiseAccuracy:
        found = kept(*arguments, what=what, **options)
        if "validation" in what:
            found.right[:, found.pairs.index((0.0, 0.0))] += 1
        return found

    monkeypatch.setitem(analysis.robustness.__globals__, "noise_accuracy", flat_is_best)
    found = analysis.robustness(subject, test, valid, pairs=[(0, 0), (2, 0.5)], sigmas=[0.3])
    assert found.search is not None and found.masked is not None
    assert found.search.pair == (0.0, 0.0)
    assert found.masked.pair in ((1.0, 0.0), (2.0, 0.5))
    assert found.masked.pair == max(found.masked.valid, key=found.masked.valid.__getitem__)
    assert [t.title.partition(",")[0] for t in found.tables()[1:]] == [
        f"n = {n:g}" for n, _ in (found.search.pair, found.masked.pair)
    ]
    stored = found.to_json()
    assert stored["search_with_masks"]["pair"] == list(found.masked.pair)


@pytest.mark.parametrize(
    ("pairs", "sigmas", "message"),
    [
        ([(-1, 0)], [0], "pairs: expected n and β"),
        ([], [0], "pairs: expected at least one"),
        ([(1, 0)], [-0.1], "sigmas: expected"),
        ([(1, 0)], [], "sigmas: expected"),
        ([(1, float("nan"))], [0], "pairs: expected n and β"),
    ],
)
def test_noise_names_what_is_wrong(
    pairs: Any, sigmas: Any, message: str, subject: Checkpoint, data: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        analysis.noise_accuracy(subject, analysis.open_faces(subject, data), pairs, sigmas)


def test_curves_are_those_of_the_equations() -> None:
    curves = analysis.tone_curves([(1, 0), (0, 0), (2, 0.5)])
    linear, flat, steep = curves.values([0.0, 0.25, 0.5, 1.0])
    assert linear == pytest.approx([0, 0.25, 0.5, 1])
    assert flat == pytest.approx([0.5] * 4)
    assert steep == pytest.approx([-0.5, 1.5 * 0.125 - 0.5, 0.25, 1])
    with pytest.raises(ValueError, match="at least one"):
        analysis.tone_curves([])


def test_no_two_pairs_are_drawn_alike() -> None:
    pairs = [(n / 2, beta / 4) for n in range(9) for beta in range(9)]
    assert len({str(style) for style in pair_styles(pairs)}) == len(pairs)
    assert png_bytes(analysis.tone_curves(pairs).figure())
