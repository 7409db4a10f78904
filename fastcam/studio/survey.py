"""Where a network looks for an attribute over many images, and what it relies on there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastcam._util.files import json_with, read_json, write_json
from fastcam._util.modules import evaluating
from fastcam._util.progress import Report, labelled
from fastcam.data import open_folder
from fastcam.data.batches import Collate
from fastcam.evaluation import Reliance, attention_maps, bootstrap_interval, energy_share, reliance
from fastcam.evaluation.cam_maps import check_scores
from fastcam.evaluation.classes import targets_of
from fastcam.evaluation.drop_samples import present_in
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.models import Checkpoint, grid_size, load_checkpoint

FILE = "survey.json"
_KEYS = ("attribute", "regions", "energies")
#: Another number wherever other images are chosen, so that kept surveys are made again.
_CHOOSING = 2
#: Images in one forward.
_BATCH = 32


@dataclass(frozen=True)
class Share:
    """Mean share of the maps' energy that lies in a region, with its 95% interval over images."""

    region: str
    images: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Survey:
    """What a network does for one attribute on N images with R regions.

    Attributes:
        attribute, split: what was looked at.
        names: of the images, N.
        present: whether each has the attribute.
        scores: of the attribute, above 0 says yes.
        dead: whether the map is zero everywhere.
        regions: names, R.
        energies: [N][R], share of each map's energy in each region; None for a dead map.
        shares: over the images with the attribute.
        reliance: what the score relies on; None without regions to hide.
    """

    attribute: str
    split: str
    names: tuple[str, ...]
    present: tuple[bool, ...]
    scores: tuple[float, ...]
    dead: tuple[bool, ...]
    regions: tuple[str, ...]
    energies: tuple[tuple[float | None, ...], ...]
    shares: tuple[Share, ...]
    reliance: Reliance | None

    @property
    def right(self) -> list[bool]:
        """Whether the answer is right, image by image."""
        return [(s > 0) == p for s, p in zip(self.scores, self.present, strict=True)]

    def by_wrong_answer(self) -> list[int]:
        """The images, the most wrong answer first."""
        signed = [s if p else -s for s, p in zip(self.scores, self.present, strict=True)]
        return sorted(range(len(signed)), key=lambda i: signed[i])

    def by_wrong_place(self, wanted: Sequence[str]) -> list[int]:
        """The images with the attribute, the least energy in the ``wanted`` regions first.

        Those whose map is dead come last: they look nowhere.
        """
        columns = [self.regions.index(name) for name in wanted if name in self.regions]

        def inside(i: int) -> float:
            return sum(self.energies[i][c] or 0.0 for c in columns)

        rows = [i for i, has in enumerate(self.present) if has]
        return sorted(rows, key=lambda i: (self.dead[i], inside(i)))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Survey:
        """The reverse of :meth:`to_json`."""
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        made["energies"] = tuple(tuple(row) for row in values["energies"])
        made["shares"] = tuple(Share(**s) for s in values["shares"])
        found = values["reliance"]
        made["reliance"] = None if found is None else Reliance.from_json(found)
        return cls(**made)

    def save(self, folder: Path) -> None:
        """Write it into a job's folder."""
        write_json(folder / FILE, self.to_json(), ours=json_with(*_KEYS))

    @classmethod
    def load(cls, folder: Path) -> Survey:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is none, or it is damaged.
        """
        return cls.from_json(read_json(folder / FILE, "survey of the studio", _KEYS))


def survey_name(checkpoint: Path, data: Path, attribute: str, images: int) -> str:
    """A name for the survey of exactly this."""
    stat = checkpoint.stat()
    what = [
        _CHOOSING, str(checkpoint), stat.st_mtime_ns, stat.st_size, str(data), attribute, images
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def survey(
    path: Path,
    data: Path,
    attribute: str,
    *,
    images: int,
    hidden: int,
    progress: Report | None = None,
) -> Survey:
    """Look at some images of the test split.

    Args:
        path: checkpoint.
        data: folder of images with labels.
        attribute: whose Grad-CAM and score are meant.
        images: at most so many.
        hidden: at most so many in which regions are hidden.
        progress: called with (what, done, total).

    Raises:
        ValueError: an unknown attribute, data that do not fit, or scores that are not finite.
    """
    checkpoint, folder = load_checkpoint(path), open_folder(data)
    regions = folder.regions
    faces = prepare_split(
        checkpoint, folder, "test", regions=regions, limit=images, cache=False, progress=progress
    )
    logits, dead, energies = _maps(checkpoint, faces, attribute, regions, progress)
    present = present_in(checkpoint, attribute, faces.labels)
    relied = None
    if regions:
        relied = reliance(
            checkpoint, faces, attribute=attribute, images=hidden, batch_size=_BATCH,
            progress=labelled(progress, "hiding regions"),
        )  # fmt: skip
    live = present & ~dead
    return Survey(
        attribute=attribute,
        split="test",
        names=tuple(faces.names),
        present=tuple(present.tolist()),
        scores=tuple(logits.tolist()),
        dead=tuple(dead.tolist()),
        regions=tuple(regions),
        energies=tuple(
            tuple(None if e != e else round(e, 5) for e in row) for row in energies.tolist()
        ),
        shares=tuple(
            _share(name, column[live & column.isfinite()])
            for name, column in zip(regions, energies.T, strict=True)
        ),
        reliance=relied,
    )


def _share(region: str, values: Tensor) -> Share:
    if not len(values):
        return Share(region, 0, None, None, None)
    low, high = bootstrap_interval(values.double().numpy())
    return Share(region, len(values), float(values.mean()), float(low), float(high))


def _maps(
    checkpoint: Checkpoint,
    faces: Prepared,
    attribute: str,
    regions: Sequence[str],
    progress: Report | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [N], which maps are dead [N], and energies [N, R]."""
    side = checkpoint.preprocessing.size
    cells = grid_size(checkpoint.model, checkpoint.spec, (side, side))
    collate = Collate([faces.region(name) for name in regions], cells)
    loader: Any = DataLoader(faces, batch_size=_BATCH, collate_fn=collate)
    report, parts, done = labelled(progress, "drawing maps"), [], 0
    with evaluating(checkpoint.model, "cpu"):
        for batch in loader:
            pixels = checkpoint.preprocessing.ready(batch["image"])
            target = targets_of(checkpoint, [attribute], batch["labels"])
            maps = attention_maps(
                checkpoint.model, pixels, target, checkpoint.spec, checkpoint.scores
            )
            check_scores(maps.logits)
            scores = checkpoint.scores(maps.logits)
            column = torch.as_tensor(target).expand(len(pixels), -1)
            grids = batch["regions"] if regions else maps.cams.new_zeros(len(pixels), 0, *cells)
            energy = energy_share(maps.cams.expand(-1, grids.shape[1], -1, -1), grids)
            parts.append((scores.gather(1, column)[:, 0], maps.dead[:, 0], energy))
            done += len(pixels)
            if report is not None:
                report(done, len(faces))
    scores, dead, energies = (torch.cat(column) for column in zip(*parts, strict=True))
    return scores, dead, energies
