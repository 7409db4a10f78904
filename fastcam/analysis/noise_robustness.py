"""Robustness against noise by transforming the masks (Kimura & Tanaka, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure

from fastcam._util.progress import Report
from fastcam.analysis.curves import Pair, check_pairs, pair_name, pair_styles
from fastcam.analysis.noise import NoiseAccuracy, noise_accuracy
from fastcam.evaluation.bootstrap import bootstrap_interval
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint
from fastcam.report import Table
from fastcam.report.figure import new_figure
from fastcam.report.numbers import percent, points, points_range

IDENTITY: Pair = (1.0, 0.0)
SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
PAIRS = tuple((n, b) for n in (1.0, 0.0, 0.5, 2.0, 4.0, 8.0) for b in (0.0, 0.5, 1.0))


def with_identity(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs once each, n = 1 with β = 0 in front."""
    return list(dict.fromkeys([IDENTITY, *check_pairs(pairs)]))


@dataclass(frozen=True)
class Search:
    """The (n, β) that is best on validation images, against n = 1, β = 0 on test images.

    Attributes:
        pair: highest accuracy on validation, mean over the noise levels; the first of equal ones.
        valid: that accuracy for every pair that could be picked.
        sigmas: noise levels.
        accuracy, baseline: on test images by level, with ``pair`` and with n = 1, β = 0.
        intervals: of their difference by level, see :func:`bootstrap_interval`.
        mean_difference, mean_interval: of the mean over the levels.
        level: of the intervals.
    """

    pair: Pair
    valid: dict[Pair, float]
    sigmas: list[float]
    accuracy: list[float]
    baseline: list[float]
    intervals: list[tuple[float, float]]
    mean_difference: float
    mean_interval: tuple[float, float]
    level: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        valid = [{"n": n, "beta": b, "accuracy": a} for (n, b), a in self.valid.items()]
        return {**vars(self), "pair": list(self.pair), "valid": valid}

    def table(self) -> Table:
        """One row a noise level."""
        header = ["σ", "n = 1, β = 0", pair_name(self.pair), "difference in points"]
        header.append(f"{100 * self.level:g}% interval")
        rows = []
        for s, a, b, i in zip(
            self.sigmas, self.accuracy, self.baseline, self.intervals, strict=True
        ):
            rows.append([f"{s:g}", percent(b, 2), percent(a, 2), points(a - b), points_range(*i)])
        count = len(self.sigmas)
        means = [percent(sum(column) / count, 2) for column in (self.baseline, self.accuracy)]
        rows.append(
            ["mean", *means, points(self.mean_difference), points_range(*self.mean_interval)]
        )
        among = "" if any(n == 0 for n, _ in self.valid) else " among n > 0"
        title = f"{pair_name(self.pair)}, picked{among} on validation images, judged on test images"
        return Table(header, rows, title)


@dataclass(frozen=True)
class Robustness:
    """Accuracy on noisy test images, and the search if there was one.

    Attributes:
        test: accuracies of every pair.
        search: the best pair; None without a search.
        masked: the best pair with n > 0, where ``search`` has picked n = 0: then every mask is
            constant, and the pick says nothing about masks.
    """

    test: NoiseAccuracy
    search: Search | None = None
    masked: Search | None = None

    def tables(self) -> list[Table]:
        """Accuracy by pair and noise level; the search."""
        header = ["accuracy at σ =", *(f"{s:g}" for s in self.test.sigmas)]
        rows = [
            [pair_name(pair), *(percent(float(v), 2) for v in column)]
            for pair, column in zip(self.test.pairs, self.test.accuracy.T, strict=True)
        ]
        images = self.test.right.shape[-1]
        title = (
            f"{images} test images, mean over attributes; always saying what is more frequent: "
            f"{percent(self.test.majority, 2)}"
        )
        searches = [s for s in (self.search, self.masked) if s is not None]
        return [Table(header, rows, title), *(s.table() for s in searches)]

    def figure(self) -> Figure:
        """Accuracy against noise, and the difference to the first pair."""
        figure = new_figure(10.5, 4.4)
        left, right = figure.subplots(1, 2)
        accuracy, sigmas = 100 * self.test.accuracy, self.test.sigmas
        styles = pair_styles(self.test.pairs)
        for j, (pair, style) in enumerate(zip(self.test.pairs, styles, strict=True)):
            width = 2.4 if pair == IDENTITY else 1.2
            drawn = {"lw": width, "marker": "o", "ms": 3, **style}
            left.plot(sigmas, accuracy[:, j].tolist(), label=pair_name(pair), **drawn)
            right.plot(sigmas, (accuracy[:, j] - accuracy[:, 0]).tolist(), **drawn)
        left.axhline(100 * self.test.majority, color="#888", lw=1, label="always the more frequent")
        left.set_ylabel("accuracy in percent, mean over attributes")
        right.set_ylabel(f"difference to {pair_name(self.test.pairs[0])}, in points")
        for axis in (left, right):
            axis.set_xlabel("σ of the noise, images in [0, 1]")
            axis.grid(alpha=0.25)
        figure.legend(loc="outside right center", fontsize=7.5, frameon=False)
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        accuracy = self.test.accuracy
        values: dict[str, Any] = {
            "sigmas": self.test.sigmas,
            "images": self.test.right.shape[-1],
            "majority": self.test.majority,
            "pairs": [
                {"n": n, "beta": b, "accuracy": accuracy[:, j].tolist()}
                for j, (n, b) in enumerate(self.test.pairs)
            ],
        }
        for name, search in (("search", self.search), ("search_with_masks", self.masked)):
            values[name] = None if search is None else search.to_json()
        return values


def search(
    valid: NoiseAccuracy, test: NoiseAccuracy, *, flat: bool = True, seed: int = 0
) -> Search:
    """Pick (n, β) on validation images and compare it with n = 1, β = 0 on test images.

    Nothing of ``test`` takes part in the choice.

    Args:
        valid, test: of the same pairs, n = 1 with β = 0 among them, and the same noise levels.
        flat: whether n = 0 may be picked, where every mask is constant.
        seed: of the bootstrap.

    Raises:
        ValueError: different pairs or levels, or no n = 1, β = 0.
    """
    if (valid.pairs, valid.sigmas) != (test.pairs, test.sigmas):
        raise ValueError("test: expected the pairs and noise levels of valid")
    if IDENTITY not in test.pairs:
        raise ValueError("pairs: expected n = 1, β = 0 among them, to compare with")
    means = dict(zip(valid.pairs, valid.accuracy.mean(0).tolist(), strict=True))
    if not flat:
        means = {pair: mean for pair, mean in means.items() if pair[0] > 0}
    best, base = (valid.pairs.index(p) for p in (max(means, key=means.__getitem__), IDENTITY))
    difference = (test.right[:, best] - test.right[:, base]).double().numpy()  # [S,N]
    level = 0.95
    return Search(
        test.pairs[best],
        means,
        test.sigmas,
        test.accuracy[:, best].tolist(),
        test.accuracy[:, base].tolist(),
        [bootstrap_interval(d, level=level, seed=seed) for d in difference],
        float(difference.mean()),
        bootstrap_interval(difference.mean(0), level=level, seed=seed),
        level,
    )


def robustness(
    checkpoint: Checkpoint,
    test: Prepared,
    valid: Prepared | None = None,
    *,
    pairs: Sequence[Pair] = PAIRS,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: Report | None = None,
) -> Robustness:
    """Accuracy against noise for every (n, β), without retraining.

    Args:
        checkpoint: of an attention network.
        test: images that accuracies are reported on.
        valid: other images, to pick (n, β) on; None leaves the search out.
        pairs, sigmas, seed: see :func:`noise_accuracy`; n = 1, β = 0 is put in front.
        batch_size: images in one forward.
        device: where the network runs; None: where it is.
        progress: called with (what, done, total).

    Raises:
        ValueError: see :func:`noise_accuracy`.
    """
    asked = with_identity(pairs)

    def measure(faces: Prepared, seed: int, name: str) -> NoiseAccuracy:
        return noise_accuracy(
            checkpoint, faces, asked, sigmas, seed=seed, batch_size=batch_size, device=device,
            progress=progress, what=f"adding noise to {name} images",
        )  # fmt: skip

    judged = measure(test, seed, "test")
    if valid is None:
        return Robustness(judged)
    measured = measure(valid, seed + 1, "validation")
    found = search(measured, judged, seed=seed)
    masked = search(measured, judged, flat=False, seed=seed) if found.pair[0] == 0 else None
    return Robustness(judged, found, masked)
