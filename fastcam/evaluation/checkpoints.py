"""Several checkpoints on the same images, as one table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from fastcam._util import checks as check
from fastcam._util.architecture import Architecture
from fastcam._util.files import check_targets, commented, json_with, write_json, write_marked
from fastcam._util.progress import Report, labelled, reporting
from fastcam.data import open_folder
from fastcam.data.hiding import Fill
from fastcam.data.labelled import attribute_index
from fastcam.evaluation.cam_maps import ScoresNotFinite
from fastcam.evaluation.difference import Difference, accuracy_differences
from fastcam.evaluation.drops import IMAGES, RegionDrops, region_drops
from fastcam.evaluation.given import name_checkpoints, pick_device
from fastcam.evaluation.operating_point import equal_specificity
from fastcam.evaluation.predictions import Predictions, predict
from fastcam.evaluation.result import KEYS, Evaluation
from fastcam.evaluation.scores import summarize
from fastcam.evaluation.splits import Prepared, check_other, labels_with, prepare_split
from fastcam.evaluation.tables import tables_of
from fastcam.evaluation.verdicts import Verdict, as_markdown, verdict
from fastcam.models import Checkpoint, load_checkpoint
from fastcam.report.table import Table


@dataclass(frozen=True)
class Comparison:
    """Checkpoints on the same images.

    Attributes:
        evaluations: by the checkpoint's name.
        tables: of accuracy and attention; with reliance, also of that.
    """

    evaluations: Mapping[str, Evaluation]
    tables: tuple[Table, ...]

    @property
    def verdicts(self) -> list[Verdict]:
        """What changed against the reference, for each other checkpoint; none without a region."""
        return [e.verdict for e in self.evaluations.values() if e.verdict is not None]


def compare(
    checkpoints: Sequence[str | Path] | Mapping[str, str | Path],
    data: str | Path,
    *,
    attribute: str,
    other: str | None = None,
    region: str | None = None,
    split: str = "test",
    threshold: float = 0.5,
    landmarks: str | Path | None = None,
    regions: str | Path | None = None,
    limit: int | None = None,
    reliance_images: int = IMAGES,
    hide: Sequence[str] = (),
    fill: Fill = "mean",
    batch_size: int = 64,
    cache: bool | None = None,
    workers: int = 2,
    out: str | Path | None = None,
    device: str = "auto",
    architecture: Architecture | None = None,
    progress: bool | Report | None = True,
) -> Comparison:
    """Evaluate checkpoints and put them side by side.

    The reference, for E2 at equal specificity and for the verdicts, is the checkpoint named
    ``control`` if there is one, else the first.

    Args:
        checkpoints: paths, or names with paths; a path alone is named by its folder,
            or by a file's name that says more than ``model.pt``.
        data: a folder that :func:`fastcam.data.open_folder` can read.
        attribute, other, region, split, threshold, landmarks, regions, limit, batch_size, cache,
            workers: see :func:`fastcam.evaluation.evaluate`.
        reliance_images: at most so many images to hide regions in; 0 leaves the reliance out.
        hide: regions to hide besides ``region``, all but it, and those that the data have (of a
            face the ten and the pairs).
        fill: what is shown in place of what is hidden, see :func:`fastcam.data.hide`.
        out: also write ``out.json`` (every evaluation) and ``out.md`` (tables and verdicts).
        device: see :func:`pick_device`.
        architecture: of the checkpoints that are files of weights alone, and the layer whose
            Grad-CAM is measured.
        progress: True draws bars on a terminal and in a notebook that has ipywidgets; a function is
            called with (what, done, total).

    Raises:
        ValueError: as :func:`fastcam.evaluation.evaluate` and :func:`fastcam.evaluation.reliance`.
        FileExistsError: ``out.json`` or ``out.md`` is there and not fastcam's.
    """
    check.fraction("threshold", threshold)
    if out is not None:
        check_prefix(out)
    named = dict(checkpoints) if isinstance(checkpoints, Mapping) else name_checkpoints(checkpoints)
    for name, path in named.items():
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"checkpoints: expected paths, got {type(path).__name__} for {name!r}; "
                "fastcam.evaluation.evaluate judges a loaded checkpoint"
            )
    running: dict[str, Any] = {
        "attribute": attribute, "region": region, "batch_size": batch_size,
        "device": pick_device(device), "workers": workers,
    }  # fmt: skip
    folder = open_folder(data, landmarks=landmarks, regions=regions)
    others = tuple(dict.fromkeys([*folder.parts, *hide]))
    check.one_of("fill", fill, get_args(Fill))
    shown = [*([region] if region is not None else []), *others]
    for part in shown:
        folder.region(part)
    if not reliance_images:
        shown = [part for part in shown if part == region]
    hidden: dict[str, Any] | None = None
    if reliance_images and (others or region is not None):
        hidden = {"others": others, "images": reliance_images, "fill": fill}
    found: dict[str, Measured] = {}
    taken: Any = None
    with reporting(progress) as report:
        for name, path in named.items():
            model = load_checkpoint(path, architecture)
            attribute_index(model.judged, attribute, f"{path} judges")
            check_other(model, folder, attribute, other, f"{path} judges")
            given = model.preprocessing
            takes = model.attributes, model.exclusive, given.size, given.fit
            if takes != taken:  # else decoded, where there is no cache, for the checkpoint before
                faces = prepare_split(
                    model, folder, split, regions=shown, limit=limit, cache=cache, workers=workers,
                    progress=report,
                )  # fmt: skip
                taken = takes
            try:
                one = measure(
                    name,
                    model,
                    faces,
                    hidden=hidden,
                    threshold=threshold,
                    progress=report,
                    **running,
                )
            except ScoresNotFinite as error:
                raise ScoresNotFinite(f"{path}: {error}") from None
            labels, names = labels_with(
                one.predictions.labels, one.attributes, other, folder, faces
            )
            found[name] = replace(
                one, attributes=names, predictions=replace(one.predictions, labels=labels)
            )
    evaluations = summarize_all(
        found, attribute=attribute, other=other, region=region, data=str(data),
        split=split, threshold=threshold,
    )  # fmt: skip
    tables = tables_of(evaluations)
    result = Comparison(evaluations, tuple(tables))
    if out is not None:
        base = str(out)
        values = {name: evaluation.to_json() for name, evaluation in evaluations.items()}
        write_json(f"{base}.json", values, ours=_OURS[".json"])
        write_marked(f"{base}.md", as_markdown(result.verdicts, tables))
    return result


@dataclass(frozen=True)
class Measured:
    """What one checkpoint said of the images.

    Attributes:
        attributes: names of its logits, see :attr:`fastcam.models.Checkpoint.judged`, and of a
            label that it does not judge.
        predictions: of all images.
        drops: with regions hidden, of some.
    """

    attributes: list[str]
    predictions: Predictions
    drops: RegionDrops | None

    def of(self, names: list[str]) -> Predictions:
        """The predictions of these alone, what is not judged last; checkpoints may differ."""
        columns = [attribute_index(self.attributes, name) for name in names]
        p = self.predictions
        judged = [column for column in columns if column < p.logits.shape[1]]
        odds = None if p.odds is None else p.odds[:, judged]
        logits, labels = p.logits[:, judged], p.labels[:, columns]
        return replace(p, logits=logits, labels=labels, exclusive=False, odds=odds)


def measure(
    name: str,
    checkpoint: Checkpoint,
    faces: Prepared,
    *,
    hidden: Mapping[str, Any] | None,
    threshold: float = 0.5,
    progress: Report | None = None,
    **running: Any,
) -> Measured:
    """Run a checkpoint over the images, and over some of them with regions hidden.

    Args:
        name: of the checkpoint, for the progress.
        checkpoint, faces, threshold: see :func:`fastcam.evaluation.predict`.
        hidden: others, images and fill of :func:`fastcam.evaluation.reliance`, where they are not
            its defaults; None hides nothing.
        progress: called with (what, done, total).
        running: attribute, region, batch_size, device and workers of both.

    Raises:
        ValueError: as both.
    """
    predictions = predict(
        checkpoint, faces, threshold=threshold, **running,
        progress=labelled(progress, f"evaluating {name}"),
    )  # fmt: skip
    drops = None
    if hidden is not None:
        drops = region_drops(
            checkpoint, faces, **hidden, **running,
            progress=labelled(progress, f"hiding regions, {name}"),
        )  # fmt: skip
    return Measured(checkpoint.judged, predictions, drops)


def differences_of(
    found: Mapping[str, Measured],
    pairs: Sequence[tuple[str, str]],
    *,
    attribute: str,
    other: str | None,
) -> dict[str, tuple[Difference, ...]]:
    """What the first of each pair has more of accuracy than the second, by ``"first − second"``.

    All of them judge the same attributes.
    """
    return {
        f"{one} − {two}": accuracy_differences(
            found[one].predictions, found[two].predictions, found[one].attributes,
            attribute=attribute, other=other,
        )
        for one, two in pairs
    }  # fmt: skip


def summarize_all(
    found: Mapping[str, Measured],
    *,
    attribute: str,
    other: str | None,
    region: str | None,
    **noted: Any,
) -> dict[str, Evaluation]:
    """Sum checkpoints up, each against the reference; ``noted`` as in :func:`summarize`."""
    first = reference_name(list(found))
    names = [attribute] if other is None else [attribute, other]
    reference, reference_drops = found[first].of(names), found[first].drops
    evaluations = {}
    for name, measured in found.items():
        predictions, drops = measured.of(names), measured.drops
        extra: dict[str, Any] = {"reliance": drops and drops.summarize()}
        if other is not None and len(found) > 1:
            extra["equal_specificity"] = equal_specificity(
                predictions, reference, names, attribute=attribute, other=other, name=first
            )
        if region is not None and name not in (first, "before"):
            extra["verdict"] = verdict(
                reference, predictions, names, attribute=attribute,
                region=(reference_drops and reference_drops.region) or region,
                drops=(reference_drops, drops) if reference_drops and drops else None,
                names=(first, name),
            )  # fmt: skip
        plain = summarize(
            measured.predictions, measured.attributes, attribute=attribute, other=other,
            region=region, **noted,
        )  # fmt: skip
        evaluations[name] = replace(plain, **extra)
    return evaluations


def reference_name(names: Sequence[str]) -> str:
    """What the others are compared with: ``control`` if there is one, else the first."""
    return "control" if "control" in names else names[0]


_OURS = {".json": json_with(*KEYS, each=True), ".md": commented}


def check_prefix(out: str | Path) -> None:
    """Refuse, before the work, to write where files lie that fastcam did not write."""
    check_targets(out, _OURS)
