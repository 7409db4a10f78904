"""Training on images where two attributes agree: what helps where they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastcam._util.extras import require
from fastcam._util.run_files import CHECKPOINT
from fastcam.evaluation import pick_device, predict, summarize
from fastcam.evaluation.splits import prepare_split
from fastcam.experiments.agreeing import agreeing
from fastcam.experiments.arms import (
    BEFORE,
    CONTROL,
    UNGUIDED,
    Arm,
    as_trained,
    both,
    control,
    cut_out,
    guided,
    recommended,
)
from fastcam.experiments.judge import Judged
from fastcam.experiments.last_layer import retrain_last_layer
from fastcam.experiments.measures import Measured, collect, image_counts
from fastcam.experiments.settings import ExperimentConfig, Pair
from fastcam.experiments.study import Study
from fastcam.experiments.tables import change_table, network_table, trainings
from fastcam.models import load_checkpoint, save_checkpoint
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure
from fastcam.report.numbers import percent

#: How hard guidance draws, from least to most: the points of a curve.
PULLS = (0.1, 0.3, 1.0, 2.0)
#: How fast the weights of GroupDRO move; Sagawa et al. take the first, in far longer trainings.
STEPS = (0.01, 0.1, 1.0)
_BRIEF_PULLS, _BRIEF_STEPS = (0.3, 1.0), (0.1,)
LAST_LAYER = "last layer"
TOO_FEW = "too few images"  # of a group, in the validation split
#: Fine-tuned on all training images, those on which the attributes part among them.
ALL = "all images"
_ALL_DRO = f"{ALL}, GroupDRO"
#: Shares of the drawn faces for training, validation and test: a family's best network, and what
#: the last layer is re-fit to, come from the few validation images on which attributes part.
SPLITS = (0.38, 0.25, 0.37)
#: What the networks that validation images choose are compared in.
_COMPARED = ("test", "E1", "E2", "not a", "not a, b", "worst group", "energy", "relies on region")


# No bias is re-fit to all validation images: those on which the attributes part are among them, and
# what the worst group has gained would be taken back.
def _families(pair: Pair, brief: bool = False) -> dict[str, list[Arm]]:
    """Fine-tunings that differ in one number, from the mildest on."""
    pulls, steps = (_BRIEF_PULLS, _BRIEF_STEPS) if brief else (PULLS, STEPS)
    found = {
        name: [as_trained(guided(name, f"{name}, pull {pull:g}", pull=pull)) for pull in pulls]
        for name in ("iou", "energy")
    }
    for name in ("GroupDRO", _ALL_DRO):
        found[name] = [
            Arm(f"{name}, step {s:g}", UNGUIDED, {"group_dro": pair.other, "group_step": s})
            for s in steps
        ]
    return found


def _single(pair: Pair) -> list[Arm]:
    arms = [
        control(),
        cut_out(pair),
        both(pair, "energy"),
        recommended(),
        replace(control(), name=ALL),
    ]
    return [as_trained(arm) for arm in arms]


@dataclass(frozen=True)
class Bias:
    """For each pair the networks that were trained on agreeing images, measured on all.

    Attributes:
        pairs: of attributes.
        measured: by pair, then network.
        worst: by pair and network, the worst group's accuracy on validation images, by training;
            of the families alone.
        families: names of the networks that differ in one number, from the mildest on.
        counts: by pair, the number of test images in E1, E2 and without the attribute, by training.
    """

    pairs: tuple[Pair, ...]
    measured: Mapping[str, Measured]
    worst: Mapping[str, Mapping[str, Sequence[float | None]]]
    families: Mapping[str, Sequence[str]]
    counts: Mapping[str, list[dict[str, int]]]

    def tables(self) -> list[Table]:
        found = []
        for pair in self.pairs:
            title = (
                f"{pair.attribute} & {pair.other}, trained where they agree; "
                f"{trainings(self.counts[pair.slug])}"
            )
            found += [
                network_table(self.measured[pair.slug], title, absent={LAST_LAYER: TOO_FEW}),
                change_table(self.measured[pair.slug], f"{pair.attribute}: minus the control"),
                self._chosen(pair),
            ]
        return found

    def _chosen(self, pair: Pair) -> Table:
        """Of each family the network whose worst group does best on validation images."""
        measured, worst = self.measured[pair.slug], self.worst[pair.slug]
        rows: dict[str, Any] = {
            name: values
            for name, values in measured.items()
            if name not in worst and name != BEFORE
        }
        said = {}
        for family, members in self.families.items():
            texts, rows[family] = [], []
            for seed in range(len(measured[CONTROL])):
                known = {n: v for n in members if (v := worst[n][seed]) is not None}
                best = max(known, key=lambda name: known[name], default=None)
                rows[family].append(None if best is None else measured[best][seed])
                if best is not None:
                    texts.append(f"{best.rsplit(', ', 1)[1]} ({percent(known[best])})")
            said[family] = "; ".join(texts)
        return network_table(
            rows, f"{pair.attribute}: as validation images choose, ties going to the mildest",
            beside=said, head="chosen (worst group there)", names=_COMPARED,
            absent={LAST_LAYER: TOO_FEW},
        )  # fmt: skip

    def figure(self) -> Figure:
        """For each pair: accuracy against the share of the reliance that lies in the region."""
        figure = new_figure(5.6 * len(self.pairs), 4.4)
        axes = figure.subplots(1, len(self.pairs), squeeze=False)[0]
        for axis, pair in zip(axes, self.pairs, strict=True):
            measured = self.measured[pair.slug]
            single = {n: [n] for n in measured if not any(n in f for f in self.families.values())}
            for i, (name, networks) in enumerate({**self.families, **single}.items()):
                points = [_point(measured, n) for n in networks]
                known = [p for p in points if p is not None]
                if known:
                    axis.plot(
                        *zip(*known, strict=True), "o-", label=name, ms=4 + 2 * (len(known) == 1),
                        color=COLORS[i % len(COLORS)], mfc="white" if i >= len(COLORS) else None,
                    )  # fmt: skip
            axis.set_title(f"{pair.attribute}; curves: from the mildest on")
            axis.set_xlabel(f"share of the reliance in the {pair.region}, %")
            axis.set_ylabel("accuracy, %")
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(fontsize=7)
        return figure

    def to_json(self) -> dict[str, Any]:
        return {
            pair.slug: {
                "networks": {n: list(v) for n, v in self.measured[pair.slug].items()},
                "worst group on validation images": {
                    n: list(v) for n, v in self.worst[pair.slug].items()
                },
                "images": self.counts[pair.slug],
            }
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


def with_splits(config: ExperimentConfig) -> ExperimentConfig:
    """The settings with the shares of drawn faces that :func:`bias` needs; its caller's to set."""
    return replace(config, splits=SPLITS) if config.data is None else config


def bias(study: Study) -> Bias:
    """Train on agreeing images, fine-tune in several ways, and judge on all images.

    Guidance, cut-out and the first GroupDRO see agreeing images alone, as the network that they
    start from; what is called "all images" sees those on which the attributes part, too. Last-layer
    re-training, and every choice among the members of a family, take validation images, on which
    they part as well; no bias is re-fit to these. Drawn faces are its own, with :func:`with_splits`
    in the settings.
    """
    require("sklearn.linear_model", extra="experiments")
    study = replace(study, out=study.out / "bias")
    found: dict[str, dict[str, list[Any]]] = {}
    chosen: dict[str, dict[str, list[float | None]]] = {}
    counts: dict[str, list[dict[str, int]]] = {}
    for seed in range(study.config.seeds):
        for pair in study.pairs:
            rows, worst = _rows(study, seed, pair)
            networks = found.setdefault(pair.slug, {})
            attributes, where = study.attributes(seed), f"seed {seed}, {pair.attribute}"
            judged = collect(networks, rows, pair, attributes, where)
            counts.setdefault(pair.slug, []).append(image_counts(judged, pair, attributes))
            for name, value in worst.items():
                chosen.setdefault(pair.slug, {}).setdefault(name, []).append(value)
    families = _families(study.pairs[0], study.config.brief)
    names = {family: [arm.name for arm in arms] for family, arms in families.items()}
    return Bias(study.pairs, found, chosen, names, counts)


def _rows(
    study: Study, seed: int, pair: Pair
) -> tuple[dict[str, Judged | None], dict[str, float | None]]:
    """The networks on test images, and the families' worst groups on validation images."""
    folder = study.out / f"seed{seed}" / f"agreeing-{pair.slug}"
    everything = study.data(seed)
    data = agreeing(everything, folder / "faces", pair.attribute, pair.other)
    inner = replace(study, out=folder, config=replace(study.config, data=str(data)))
    outer = replace(inner, config=replace(study.config, data=str(everything)))
    start = inner.base(seed)
    checkpoint = load_checkpoint(start)
    device = pick_device(study.config.device)
    valid = prepare_split(
        checkpoint, data, "valid", limit=study.config.limit_valid, workers=study.workers
    )

    def worst_group(path: Path) -> float | None:
        network = load_checkpoint(path)
        predictions = predict(network, valid, attribute=pair.attribute, device=device)
        return summarize(
            predictions, network.attributes, attribute=pair.attribute, other=pair.other
        ).worst_group

    families = [arm for f in _families(pair, study.config.brief).values() for arm in f]
    arms = [*_single(pair), *families]
    paths: dict[str, Path | None] = {BEFORE: start}
    studies = {arm.name: outer if arm.name.startswith(ALL) else inner for arm in arms}
    for of in (inner, outer):
        some = [arm for arm in arms if studies[arm.name] is of]
        paths |= of.networks(seed, pair, some, start)
    study.say(f"seed {seed}, {pair.attribute}: {LAST_LAYER}")
    refit = retrain_last_layer(
        checkpoint, valid, pair.attribute, pair.other, device=device, seed=seed
    )
    paths[LAST_LAYER] = None
    if refit is not None:
        folder = start.parent.with_name(f"{start.parent.name}-{pair.slug}")
        paths[LAST_LAYER] = save_checkpoint(folder / "last_layer" / CHECKPOINT, refit)
    rows: dict[str, Judged | None] = {}
    for name in (BEFORE, *studies, LAST_LAYER):
        path = paths[name]
        of = studies.get(name, inner)
        rows[name] = None if path is None else of.judged(seed, pair, path)
    worst = {
        arm.name: None if (path := paths[arm.name]) is None else worst_group(path)
        for arm in families
    }
    return rows, worst
