"""Networks trained from scratch, fine-tuned in several ways, and judged; what is there is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fastcam._util.progress import Report, labelled
from fastcam._util.workers import cpus, in_processes
from fastcam.data import open_folder
from fastcam.data.digests import data_digests
from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import Prepared, prepare_split
from fastcam.experiments.arms import BEFORE, Arm
from fastcam.experiments.judge import Judged, judge, keep
from fastcam.experiments.settings import EXTENT, PAIRS, ExperimentConfig, Pair, settings_of
from fastcam.faces import generate
from fastcam.models import Checkpoint, ModelSpec, load_checkpoint
from fastcam.models.registry import register_all, registered
from fastcam.training import (
    GuidanceConfig,
    TrainConfig,
    TrainingDiverged,
    keep_freed_memory,
    train,
)
from fastcam.training.config import NOTHING

# P(b | a) = P(not b | not a) of a pair on drawn faces: about the correlation of lipstick and heavy
# make-up in CelebA (φ = 0.8).
_AGREEMENT = 0.9


@dataclass(frozen=True)
class Study:
    """The networks of an experiment.

    Attributes:
        out: folder that everything goes into; studies with the same settings share it.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        progress: called with (what, done, total).
        say: told what begins.
        jobs: fine-tunings beside each other, in processes of their own.
    """

    out: Path
    config: ExperimentConfig
    workers: int
    progress: Report | None
    say: Any
    jobs: int = 1
    _tests: dict[Any, Prepared] = field(default_factory=dict, init=False, compare=False)
    _read: dict[int, dict[str, Any]] = field(default_factory=dict, init=False, compare=False)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.config.chosen

    def data(self, seed: int) -> Path:
        """The data of a seed: drawn where the settings name none."""
        if self.config.data is not None:
            return Path(self.config.data)
        folder = self.data_of(seed)
        self.say(f"seed {seed}: drawing {self.config.images} faces")
        return generate(
            folder,
            self.config.images,
            seed=seed,
            cooccurrence={(p.attribute, p.other): _AGREEMENT for p in PAIRS},
            splits=self.config.splits,
            workers=self.workers,
            progress=labelled(self.progress, "drawing faces") or False,
        )

    def base(self, seed: int, model: str | None = None, **changes: Any) -> Path:
        """A network trained from scratch on all attributes.

        Args:
            seed: of its data, weights and order.
            model: its name; None takes that of the settings.
            changes: settings of :class:`fastcam.training.TrainConfig`.
        """
        c, model = self.config, model or self.config.model
        settings: dict[str, Any] = {
            "model": model, "size": c.size, "fit": c.fit, "epochs": c.epochs, "patience": 0,
            "batch_size": c.batch_size, "lr": c.lr, "schedule": c.schedule,
            "limit_train": c.limit_train, "limit_valid": c.limit_valid,
            "precision": c.precision, "seed": seed, "device": c.device, "workers": self.workers,
            **changes,
        }  # fmt: skip
        data = self.data(seed)
        self.say(f"seed {seed}: training {model} from scratch")
        config = TrainConfig(data=str(data), **settings)
        return train(config, self.out / f"seed{seed}" / model, progress=self.progress).checkpoint

    def tuned(self, seed: int, start: Path, pair: Pair, arm: Arm) -> Path | None:
        """A network fine-tuned from ``start``; None where that diverged."""
        config = TrainConfig.finetune(
            start, self.data_of(seed),
            GuidanceConfig(**{"targets": ((pair.attribute, pair.region),), **arm.guidance}),
            seed=seed + 1, limit_train=self.config.limit_train,
            limit_valid=self.config.limit_valid, precision=self.config.precision,
            device=self.config.device, workers=self.workers, **{"without": NOTHING, **arm.train},
        )  # fmt: skip
        self.say(f"seed {seed}, {pair.attribute}: {arm.name}")
        folder = self.out / f"seed{seed}" / f"{start.parent.name}-{pair.slug}" / arm.slug
        try:
            return train(config, folder, progress=self.progress).checkpoint
        except TrainingDiverged as error:
            self.say(str(error))
            return None

    def data_of(self, seed: int) -> Path:
        """The data of a seed, where they are there already."""
        return Path(self.config.data) if self.config.data else self.out / f"seed{seed}" / "faces"

    def _digests(self, seed: int) -> dict[str, Any]:
        """Of the data of a seed, read once."""
        if seed not in self._read:
            self._read[seed] = data_digests(self.data_of(seed))
        return self._read[seed]

    def test_images(self, seed: int, checkpoint: Checkpoint) -> Prepared:
        """The test split, read once for all networks of a seed and size."""
        key = (seed, checkpoint.preprocessing, tuple(checkpoint.attributes))
        if key not in self._tests:
            self._tests.clear()
            self._tests[key] = prepare_split(
                checkpoint, self.data_of(seed), "test", limit=self.config.limit_test,
                regions=[text for pair in self.pairs for text in (pair.region, pair.elsewhere)],
                workers=self.workers, progress=self.progress,
            )  # fmt: skip
        return self._tests[key]

    def attributes(self, seed: int) -> list[str]:
        """Names of the logits of a seed's networks."""
        return open_folder(self.data_of(seed)).attributes

    def judged(self, seed: int, pair: Pair, path: Path) -> Judged:
        """A network on the test images of its seed."""
        checkpoint = load_checkpoint(path)

        def make() -> Judged:
            return judge(
                checkpoint, self.test_images(seed, checkpoint), pair,
                images=self.config.reliance_images, altered_images=self.config.altered_images,
                device=pick_device(self.config.device), progress=self.progress,
            )  # fmt: skip

        settings = {k: v for k, v in settings_of(self.config).items() if k not in EXTENT}
        settings |= {"pair": pair.slug, "seed": seed, **self._digests(seed)}
        return keep(path.with_name(f"judged-{pair.slug}.pt"), settings, make)

    def rows(
        self, seed: int, pair: Pair, arms: Sequence[Arm], start: Path
    ) -> dict[str, Judged | None]:
        """The network before and after each way of fine-tuning; None where one diverged."""
        paths = self.networks(seed, pair, arms, start, before=True)
        return {name: self.judged(seed, pair, p) if p else None for name, p in paths.items()}

    def networks(
        self, seed: int, pair: Pair, arms: Sequence[Arm], start: Path, before: bool = False
    ) -> dict[str, Path | None]:
        """Where the networks of :meth:`rows` lie; ``start`` among them where ``before`` says so."""
        diverged = self._beside(seed, pair, arms, start, before) if self.jobs > 1 else set()
        found: dict[str, Path | None] = {BEFORE: start} if before else {}
        for arm in arms:
            found[arm.name] = None if arm.name in diverged else self.tuned(seed, start, pair, arm)
        return found

    def _beside(
        self, seed: int, pair: Pair, arms: Sequence[Arm], start: Path, before: bool
    ) -> set[str]:
        """Fine-tune and judge in processes beside each other, and keep what :meth:`networks` finds.

        Returns:
            Names of those that diverged.
        """
        alone = replace(self, progress=None, say=None, jobs=1)  # each task keeps what it says
        tasks = [(alone, seed, pair, arm, start) for arm in [*[None] * before, *arms]]
        jobs = min(self.jobs, len(tasks))
        self.say(f"seed {seed}, {pair.attribute}: {len(arms)} fine-tunings, {jobs} at a time")
        how = (max(1, cpus() // jobs), registered())
        made = in_processes(_row, tasks, jobs, _begin, how, fork=False)
        diverged = set()
        for done, (name, error) in enumerate(made, 1):
            if self.progress is not None:
                self.progress("fine-tuning and judging", done, len(tasks), name)
            if error:
                self.say(error)
                diverged.add(name)
        return diverged


def _begin(threads: int, models: Mapping[str, ModelSpec]) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    register_all(models)


def _row(task: tuple[Study, int, Pair, Arm | None, Path]) -> tuple[str, str]:
    """The name of a row, and what was said if it diverged."""
    study, seed, pair, arm, start = task
    said: list[str] = []
    study = replace(study, say=said.append)
    path = start if arm is None else study.tuned(seed, start, pair, arm)
    if path is not None:
        study.judged(seed, pair, path)
    return BEFORE if arm is None else arm.name, said[-1] if path is None else ""
