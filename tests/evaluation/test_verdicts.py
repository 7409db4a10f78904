"""What is said of a guided network: for made-up measurements whose verdict is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastcam.evaluation import Predictions, RegionDrops, Verdict, bootstrap_interval, verdict
from fastcam.evaluation.verdicts import Change, auc_change

N = 200
PRESENT = torch.arange(N) % 2 == 0


def _predictions(energy: float, *, wrong: int = 0) -> Predictions:
    """Scores ±1, the first ``wrong`` images with the attribute judged wrong, noise on the maps."""
    scores = torch.where(PRESENT, 1.0, -1.0)
    scores[PRESENT.nonzero()[:wrong]] = -2
    noise = 0.02 * torch.sin(torch.arange(N) * 1.0)
    return Predictions(
        scores[:, None], PRESENT.float()[:, None], energy=energy + noise,
        visible=torch.ones(N, dtype=torch.bool), dead=torch.zeros(N, dtype=torch.bool),
    )  # fmt: skip


def _drops(mouth: float, rest: float, eyes: float, chin: float = 0.1) -> RegionDrops:
    names = ("mouth", "all but mouth", "left_eye", "mouth,chin", "chin")
    noise = 0.05 * torch.sin(torch.arange(N) * 1.0 + torch.arange(5.0)[:, None])
    return RegionDrops(
        "A", names, "mouth", "mean",
        scores=torch.where(PRESENT, 1.0, -1.0),  # of standard deviation 1
        drops=torch.tensor([mouth, rest, eyes, 9.0, chin])[:, None] + noise,
        present=PRESENT, visible=torch.ones(5, N, dtype=torch.bool),
        # The fourth region holds little besides the guided one, and is no other.
        inside=torch.tensor([1.0, 0, 0, 0.8, 0]),
        weights=torch.full((N,), 1 / N, dtype=torch.float64),
    )  # fmt: skip


def _judge(before: Predictions, after: Predictions, *drops: RegionDrops, **options: Any) -> Verdict:
    chosen = (drops[0], drops[1]) if drops else None
    return verdict(before, after, ["A"], attribute="A", region="mouth", drops=chosen, **options)


CONTROL = _predictions(0.08), _drops(0.4, 1.6, 1.15)


@pytest.mark.parametrize(
    ("energy", "drops", "words"),
    [
        (0.5, (0.9, 1.6, 1.15), "the map moved and the reliance moved"),  # .2 → .36
        (0.5, (0.4, 1.6, 0.3), "the map moved and the reliance moved"),  # the eyes let go
        (0.5, (0.42, 1.6, 1.17), "the map moved, the reliance did not"),
        (0.5, (0.2, 1.6, 0.3), "the map moved, the reliance did not"),  # nor did the mouth gain
        (0.5, (0.4, 1.6, 1.0), "the map moved, the reliance did not"),  # less than a fifth
        (0.09, (0.4, 1.6, 0.3), "the reliance moved, the map did not"),
        (0.125, (0.4, 1.6, 1.15), "nothing moved"),  # 1.6 times, but not five points
        (0.08, (0.4, 1.6, 1.15), "nothing moved"),
    ],
)
def test_the_words(energy: float, drops: tuple[float, float, float], words: str) -> None:
    found = _judge(CONTROL[0], _predictions(energy), CONTROL[1], _drops(*drops))
    assert found.words == words
    assert Verdict.from_json(found.to_json()) == found
    assert str(found).startswith(f"guided against control: {words}. energy in mouth 8.0% → ")
    assert found.other_region == "left_eye"
    worse = _judge(CONTROL[0], _predictions(energy, wrong=8), CONTROL[1], _drops(*drops))
    assert worse.words == f"the network got worse ({words})"


def test_where_the_words_change() -> None:
    """Intervals count, and so does the size: each alone is not enough."""
    still = Change(0.9, 0.9, -0.1, 0.1)

    def said(accuracy: Change = still, auc: Change | None = None, **parts: Change) -> Verdict:
        measured = dict.fromkeys(("energy", "share", "other")) | parts
        return Verdict("control", "guided", "mouth", other_region="left_eye", accuracy=accuracy,
                       auc=auc, **measured)  # type: ignore[arg-type] # fmt: skip

    assert said(energy=Change(0.25, 0.375, 0.06, 0.2)).map_moved  # 1.5 times
    assert not said(energy=Change(0.25, 0.37, 0.06, 0.2)).map_moved
    assert not said(energy=Change(0.25, 0.45, 0.05, 0.3)).map_moved  # perhaps five points
    assert said(share=Change(0.2, 0.4, 0.01, 0.4)).reliance_moved
    assert not said(share=Change(0.2, 0.4, -0.01, 0.4)).reliance_moved
    let_go = Change(1.0, 0.5, -0.9, -0.1)
    assert said(other=let_go).reliance_moved
    assert not said(other=Change(1.0, 0.5, -1.0, 0.1)).reliance_moved
    assert said(other=let_go, share=Change(0.4, 0.3, -0.3, 0.1)).reliance_moved
    assert not said(other=let_go, share=Change(0.4, 0.3, -0.2, -0.01)).reliance_moved
    for change, worse in (
        (Change(0.9, 0.8, -0.2, -0.01), True),
        (Change(0.9, 0.8, -0.2, 0.01), False),
        (Change(0.9, 0.895, -0.008, -0.002), False),
    ):
        assert said(change).worse == worse
        assert said(auc=change).worse == worse


def test_the_numbers_by_hand() -> None:
    found = _judge(CONTROL[0], _predictions(0.5, wrong=1), CONTROL[1], _drops(0.9, 1.6, 0.3))
    assert found.energy is not None and found.share is not None and found.other is not None
    assert found.energy.difference == pytest.approx(0.42, abs=1e-6)
    # The same noise on both: every image differs by the same.
    assert (found.energy.low, found.energy.high) == pytest.approx((0.42, 0.42), abs=1e-6)
    noise = 0.05 * torch.sin(torch.arange(N) * 1.0 + torch.arange(5.0)[:, None])[:, PRESENT]
    mouth, rest = (noise[i].mean().item() for i in (0, 1))
    assert found.share.before == pytest.approx((0.4 + mouth) / (2 + mouth + rest), abs=1e-5)
    assert found.share.after == pytest.approx((0.9 + mouth) / (2.5 + mouth + rest), abs=1e-5)
    assert found.share.low <= found.share.difference <= found.share.high
    # The eye is chosen on every second image and measured on the others.
    assert found.other.before == pytest.approx(1.15 + noise[2, 1::2].mean().item(), abs=1e-5)
    assert found.accuracy.difference == pytest.approx(-1 / N)
    right = np.zeros(N)
    right[0] = -1
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(bootstrap_interval(right))
    assert not found.worse
    text = found.evidence
    for part in ("energy in mouth 8.", "share of the reliance in mouth 0.2",
                 "drop with left_eye hidden, of every second image 1.1",
                 "accuracy 100.0% → 99.5%", "AUC 100.0% → 99.0%"):  # fmt: skip
        assert part in text, part


def test_what_cannot_be_measured() -> None:
    before, after = _predictions(0.1), _predictions(0.5)
    plain = _judge(before, after, names=("first", "second"))
    assert plain.words == "the map moved, the reliance is not known"
    assert str(plain).startswith("second against first: ")
    still = _judge(before, before)
    assert still.words == "the map did not move, the reliance is not known"
    # Nobody has the attribute: neither map nor ranking nor reliance is there to compare.
    none = Predictions(before.logits, torch.zeros(N, 1), before.energy, visible=before.visible)
    found = _judge(none, none)
    assert (found.energy, found.auc, found.map_moved) == (None, None, False)
    assert found.words == "the map is not known, the reliance is not known"
    hidden = replace(before, visible=torch.zeros(N, dtype=torch.bool))
    moved = _judge(hidden, hidden, CONTROL[1], _drops(0.9, 1.6, 1.15))
    assert moved.words == "the map is not known, the reliance moved"
    assert found.evidence.startswith("accuracy ")
    assert Verdict.from_json(found.to_json()) == found
    # A dead map has no energy in the region.
    assert after.energy is not None
    dead = Predictions(
        after.logits, after.labels, torch.full((N,), torch.nan), visible=after.visible
    )
    assert _judge(after, dead).energy.after == 0  # type: ignore[union-attr]
    # A share of a little rises by a half, and is still little; no eye is needed, so none lets go.
    little = _judge(before, after, _drops(0.1, 1.9, 0.08, 0.0), _drops(0.15, 1.9, 0.0, 0.0))
    assert (little.other, little.reliance_moved) == (None, False)
    assert little.share is not None and little.share.low > 0
    # Nothing is relied on, so there is no other region.
    nothing = _drops(0, 0, 0, 0)
    flat = RegionDrops(**{**vars(nothing), "drops": torch.zeros(5, N)})
    assert _judge(before, after, flat, flat).words.endswith("the reliance is not known")
    constant = RegionDrops(**{**vars(nothing), "scores": torch.zeros(N)})
    assert _judge(before, after, nothing, constant).share is None


def test_images_that_show_the_region_to_one_of_two_are_left_out() -> None:
    # As where one network takes the whole image, the other its centre.
    whole, cut = _predictions(0.08), _predictions(0.5)
    shown = torch.arange(N) < 120
    cut.visible[~shown] = False  # type: ignore[index]
    cut.energy[~shown] = torch.nan  # type: ignore[index]
    drops = _drops(0.9, 1.6, 0.3)
    drops.visible[:, ~shown] = False
    both = PRESENT & shown
    for pair, sign in (((whole, cut), 1), ((cut, whole), -1)):
        parts = (CONTROL[1], drops)[::sign]
        found = _judge(*pair, *parts)
        assert found.energy is not None and found.share is not None
        assert found.energy.before == pytest.approx(float(pair[0].energy[both].mean()))  # type: ignore[index]
        assert found.energy.difference == pytest.approx(0.42 * sign, abs=1e-6)
        means = parts[0].drops[:2, both].mean(1)
        assert found.share.before == pytest.approx(float(means[0] / means.sum()), abs=1e-5)
    other = _judge(whole, cut, CONTROL[1], drops).other
    assert other is not None
    eyes = CONTROL[1].drops[2, both][1::2]
    assert other.before == pytest.approx(float(eyes.mean()), abs=1e-5)


def test_one_image_says_nothing_of_others() -> None:
    def first(p: Predictions) -> Predictions:
        return Predictions(*(x[:1] for x in (p.logits, p.labels, p.energy)), visible=p.visible[:1])  # type: ignore[index]

    before, after = first(_predictions(0.1)), first(_predictions(0.9, wrong=1))
    found = _judge(before, after)
    assert (found.energy, found.auc, found.map_moved, found.worse) == (None, None, False, False)
    assert found.accuracy == Change(1.0, 0.0, -1.0, 1.0)
    # Nor does one image that has the attribute and shows the region, among many.
    drops = []
    for each in (CONTROL[1], _drops(1.6, 0.4, 0.0)):
        visible = torch.zeros(5, N, dtype=torch.bool)
        visible[:, :2] = True
        drops.append(RegionDrops(**{**vars(each), "visible": visible}))
    found = _judge(CONTROL[0], CONTROL[0], *drops)
    assert (found.share, found.other, found.reliance_moved) == (None, None, None)


def test_a_verdict_refuses_other_images() -> None:
    before = _predictions(0.1)
    turned = Predictions(before.logits, 1 - before.labels)
    with pytest.raises(ValueError, match="predictions of the same images"):
        _judge(before, turned)
    with pytest.raises(ValueError, match="with the maps in a region"):
        _judge(Predictions(before.logits, before.labels), before)
    drops = CONTROL[1]
    for change in ({"fill": "blur"}, {"region": "chin"}, {"attribute": "B"}):
        with pytest.raises(ValueError, match="drops: expected the same two"):
            _judge(before, before, drops, RegionDrops(**{**vars(drops), **change}))
    other = RegionDrops(**{**vars(drops), "present": ~PRESENT})
    with pytest.raises(ValueError, match="of the same images"):
        _judge(before, before, drops, other)


def test_change_of_the_auc() -> None:
    torch.manual_seed(0)
    labels = (torch.rand(300) < 0.4).float()
    before, after = labels + torch.randn(300), labels * 2 + torch.randn(300)
    found = auc_change(before, after, labels)
    assert found is not None

    def area(scores: Tensor) -> float:
        gaps = scores[labels == 1, None] - scores[labels == 0]
        return float(((gaps > 0).double() + (gaps == 0) / 2).mean())

    assert (found.before, found.after) == pytest.approx((area(before), area(after)))
    rows = [torch.randint(300, (300,)) for _ in range(300)]
    drawn = []
    for r in rows:
        c = auc_change(before[r], after[r], labels[r])
        assert c is not None
        drawn.append(c.difference)
    error = float(np.std(drawn))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)
    tied = auc_change(torch.zeros(4), torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 1, 0, 0]))
    assert tied == Change(0.5, 1.0, 0.5, 0.5)
    assert auc_change(torch.zeros(3), torch.zeros(3), torch.tensor([1.0, 0, 0])) is None
