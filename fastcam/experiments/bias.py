"""Training on images where two attributes agree: what helps where they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import prepare_split
from fastcam.experiments.agreeing import agreeing
from fastcam.experiments.arms import BEFORE, CONTROL, Arm, control, cut_out, guided, recommended
from fastcam.experiments.judge import Judged
from fastcam.experiments.last_layer import retrain_last_layer
from fastcam.experiments.measures import Measured, measure
from fastcam.experiments.settings import Pair
from fastcam.experiments.study import Study
from fastcam.experiments.text import change_table, network_table
from fastcam.models import load_checkpoint, save_checkpoint
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure

#: How hard guidance draws, from least to most: the points of a curve.
PULLS = (0.1, 0.3, 1.0, 2.0)
LAST_LAYER = "last layer"
TOO_FEW = "too few images"  # of a group, in the validation split


def _arms(pair: Pair) -> list[Arm]:
    curves = [
        guided(name, f"{name}, pull {pull:g}", pull=pull)
        for name in ("iou", "energy")
        for pull in PULLS
    ]
    both = guided("energy", "energy + cut-out", without=pair.elsewhere)
    return [control(), cut_out(pair), both, recommended(), *curves]


@dataclass(frozen=True)
class Bias:
    """For each pair the networks that were trained on agreeing images, measured on all."""

    pairs: tuple[Pair, ...]
    measured: Mapping[str, Measured]

    def tables(self) -> list[Table]:
        found = []
        for pair in self.pairs:
            title = f"{pair.attribute} & {pair.other}, trained where they agree"
            found += [
                network_table(self.measured[pair.slug], title, absent={LAST_LAYER: TOO_FEW}),
                change_table(self.measured[pair.slug], f"{pair.attribute}: minus the control"),
            ]
        return found

    def figure(self) -> Figure:
        """For each pair: accuracy against the share of the reliance that lies in the region."""
        figure = new_figure(5.6 * len(self.pairs), 4.4)
        axes = figure.subplots(1, len(self.pairs), squeeze=False)[0]
        for axis, pair in zip(axes, self.pairs, strict=True):
            measured = self.measured[pair.slug]
            curves = {n: [f"{n}, pull {p:g}" for p in PULLS] for n in ("iou", "energy")}
            single = [n for n in measured if not any(n in c for c in curves.values())]
            for i, (name, networks) in enumerate({**curves, **{n: [n] for n in single}}.items()):
                points = [_point(measured, n) for n in networks]
                known = [p for p in points if p is not None]
                if known:
                    axis.plot(
                        *zip(*known, strict=True), "o-", label=name, ms=4 + 2 * (len(known) == 1),
                        color=COLORS[i % len(COLORS)], mfc="white" if i >= len(COLORS) else None,
                    )  # fmt: skip
            axis.set_title(f"{pair.attribute}, pull {', '.join(f'{p:g}' for p in PULLS)}")
            axis.set_xlabel(f"share of the reliance in the {pair.region}, %")
            axis.set_ylabel("accuracy, %")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
        return figure

    def to_json(self) -> dict[str, Any]:
        return {
            pair.slug: {name: list(values) for name, values in self.measured[pair.slug].items()}
            for pair in self.pairs
        }


def _point(measured: Measured, network: str) -> tuple[float, float] | None:
    """Means of reliance and accuracy over trainings, in percent."""
    pairs = [(m["relies on region"], m["test"]) for m in measured[network] if m is not None]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if not known:
        return None
    x, y = (100 * sum(values) / len(known) for values in zip(*known, strict=True))
    return x, y


def bias(study: Study) -> Bias:
    """Train on agreeing images, guide, re-train the last layer, and judge on all images."""
    found: dict[str, dict[str, list[Any]]] = {}
    for seed in range(study.config.seeds):
        for pair in study.pairs:
            rows = _rows(study, seed, pair)
            reference = rows[CONTROL]
            if reference is None:
                raise ValueError(f"seed {seed}: the control of {pair.attribute} diverged")
            networks = found.setdefault(pair.slug, {})
            for name, judged in rows.items():
                values = None
                if judged is not None:
                    values = measure(judged, reference, pair, study.attributes(seed))
                networks.setdefault(name, []).append(values)
    return Bias(study.pairs, found)


def _rows(study: Study, seed: int, pair: Pair) -> dict[str, Judged | None]:
    folder = study.out / f"seed{seed}" / f"agreeing-{pair.slug}"
    data = agreeing(study.data(seed), folder / "faces", pair.attribute, pair.other)
    inner = replace(study, out=folder, config=replace(study.config, data=str(data)))
    start = inner.base(seed)
    rows = inner.rows(seed, pair, _arms(pair), start)
    study.say(f"seed {seed}, {pair.attribute}: {LAST_LAYER}")
    checkpoint = load_checkpoint(start)
    valid = prepare_split(checkpoint, data, "valid", workers=study.workers)
    device = pick_device(study.config.device)
    refit = retrain_last_layer(
        checkpoint, valid, pair.attribute, pair.other, device=device, seed=seed
    )
    path = start.parent.with_name(f"{start.parent.name}-{pair.slug}") / "last_layer" / "model.pt"
    if refit is not None:
        rows[LAST_LAYER] = inner.judged(seed, pair, save_checkpoint(path, refit))
    else:
        rows[LAST_LAYER] = None
    return {BEFORE: rows.pop(BEFORE), **rows}
