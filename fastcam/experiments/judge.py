"""What is measured of one network, and kept: predictions, where it looks, what it relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from fastcam._util.files import write_atomic
from fastcam._util.modules import evaluating
from fastcam._util.progress import Report, labelled
from fastcam._util.settings import differing
from fastcam._util.torch_files import NotATorchFile, read_torch_file
from fastcam.data import hide
from fastcam.data.batches import loader, places_of, region_grids
from fastcam.data.digests import DIGESTS
from fastcam.data.hiding import all_but
from fastcam.evaluation import Predictions, Reliance, predict, reliance
from fastcam.evaluation.splits import Prepared
from fastcam.experiments.settings import Pair
from fastcam.experiments.sunglasses import sunglasses
from fastcam.models import Checkpoint

#: Changes of the test images, beside which the plain ones are judged; the second of faces alone.
ALTERED = ("region only", "sunglasses")


@dataclass(frozen=True)
class Judged:
    """One network on the test images.

    Attributes:
        predictions: of the plain images, with the attention measured in the pair's region.
        altered: scores of the attribute on the first images, changed, by the names of ``ALTERED``;
            dark glasses are drawn on faces alone.
        reliance: on the pair's region and others.
    """

    predictions: Predictions
    altered: Mapping[str, Tensor]
    reliance: Reliance


def judge(
    checkpoint: Checkpoint,
    test: Prepared,
    pair: Pair,
    *,
    images: int,
    altered_images: int,
    device: str | torch.device,
    progress: Report | None = None,
) -> Judged:
    """Run a network over the test images, over changed ones, and with regions hidden.

    Args:
        checkpoint: the network.
        test: all test images.
        pair: the attributes and regions.
        images: on how many regions are hidden.
        altered_images: how many are changed.
    """
    what: dict[str, Any] = {"attribute": pair.attribute, "device": device}
    found = predict(
        checkpoint, test, region=pair.region, progress=labelled(progress, "judging"), **what
    )
    altered = _altered(checkpoint, test, pair, altered_images, device, progress)
    relied = reliance(
        checkpoint, test, region=pair.region, others=[pair.elsewhere], images=images,
        progress=labelled(progress, "hiding regions"), **what,
    )  # fmt: skip
    return Judged(found, altered, relied)


def _altered(
    checkpoint: Checkpoint,
    test: Prepared,
    pair: Pair,
    limit: int,
    device: str | torch.device,
    progress: Report | None,
) -> dict[str, Tensor]:
    """Scores of the attribute on the first images, changed, by the names of ``ALTERED``."""
    a = checkpoint.attributes.index(pair.attribute)
    region: Any = test.region(pair.region)
    size = (test.size, test.size)
    report = labelled(progress, f"judging {' and '.join(ALTERED)}")
    found: dict[str, list[Tensor]] = {name: [] for name in ALTERED}
    first = range(min(limit, len(test)))
    with evaluating(checkpoint.model, device), torch.no_grad():
        for batch in loader(test, BatchSampler(first, 64, drop_last=False)):
            images = batch["image"]
            inside = region_grids([region], places_of(batch), size, size)[:, 0]
            changed = {ALTERED[0]: hide(images, all_but(inside))}
            if "landmarks" in batch:
                changed[ALTERED[1]] = sunglasses(images, batch["landmarks"])
            for name, pixels in changed.items():
                shown = checkpoint.preprocessing.normalize(pixels.to(device))
                found[name].append(checkpoint.model(shown)[:, a].float().cpu())
            if report is not None:
                report(sum(map(len, found[ALTERED[0]])), len(first))
    return {name: torch.cat(parts) for name, parts in found.items() if parts}


# ---- on disk -----------------------------------------------------------------------------------

_KEYS = ("settings", "predictions", "altered", "reliance")


def keep(path: Path, settings: Mapping[str, Any], make: Callable[[], Judged]) -> Judged:
    """What an earlier run with the same settings kept in ``path``; else what ``make`` gives.

    Args:
        path: the file.
        settings: what decides the result, with the digests of its data, see
            :func:`fastcam.data.digests.data_digests`; a file that was kept without one is taken
            to be of the same data.
        make: judges.

    Raises:
        FileExistsError: ``path`` is there and not such a file.
    """
    stored = _read(path) if path.is_file() else None
    if stored is not None and not differing(stored["settings"], settings, optional=DIGESTS):
        return Judged(
            Predictions(**stored["predictions"]),
            stored["altered"],
            Reliance.from_json(stored["reliance"]),
        )
    judged = make()
    content = {
        "settings": dict(settings),
        "predictions": vars(judged.predictions),
        "altered": dict(judged.altered),
        "reliance": judged.reliance.to_json(),
    }
    write_atomic(path, lambda file: torch.save(content, file), ours=is_judged)
    return judged


def is_judged(path: Path) -> bool:
    """Whether a file holds what :func:`keep` wrote."""
    return _read(path) is not None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stored = read_torch_file(path)
    except NotATorchFile:
        return None
    return stored if isinstance(stored, dict) and all(key in stored for key in _KEYS) else None
