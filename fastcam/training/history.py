"""A run's history: what each step and validation logged, in memory, as CSV, and as progress."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fastcam._util.files import begins, write_text
from fastcam._util.progress import Report

#: Steps between two looks at what a GPU has logged: each look waits for the device.
READ_EVERY = 50


class Reader(Callback):
    """Reads what each step has logged, and has it examined.

    What a step logs stays on its device until it is read, in one transfer for ``every`` steps, and
    at the latest before a validation or a save. Every step's record is then examined, in order.

    Args:
        examine: called with each step's record; what it raises ends the run, and until then no
            state is saved.
        every: steps between two transfers.
    """

    def __init__(self, examine: Callable[[Mapping[str, float]], None], every: int = 1) -> None:
        self.examine, self.every = examine, every
        self._unread: list[tuple[dict[str, float], dict[str, Tensor]]] = []

    def read(self) -> list[dict[str, float]]:
        """Read and examine the steps since the last call.

        Raises:
            TrainingDiverged: by ``examine``, now and in every later call.
        """
        values = iter(_floats([v for _, logged in self._unread for v in logged.values()]))
        read = [{**step, **{k: next(values) for k in logged}} for step, logged in self._unread]
        for record in read:
            self.examine(record)
        self._unread.clear()
        return read

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self._unread.append((_moment(trainer), dict(pl_module.logged)))
        if len(self._unread) >= self.every or trainer.is_last_batch:  # validation comes next
            self.read()


class Examination(Reader):
    """What a trainer of somebody else's has of a history: that each step is examined."""

    def __init__(self, examine: Callable[[Mapping[str, float]], None]) -> None:
        super().__init__(examine)
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.every = 1 if pl_module.device.type == "cpu" else READ_EVERY
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step != self._step:  # a step may have several batches
            self._step = trainer.global_step
            super().on_train_batch_end(trainer, pl_module, *args)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.read()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.read()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.read()


class History(Reader):
    """Collects the logged metrics, one record a step or validation, and writes them as CSV.

    The records are part of the resume state, so a resumed run has one unbroken history.

    Args:
        path: the CSV file, rewritten at the end of each epoch.
        examine, every: see :class:`Reader`.
    """

    def __init__(
        self, path: Path, examine: Callable[[Mapping[str, float]], None], every: int = 1
    ) -> None:
        super().__init__(examine, every)
        self.path = path
        self.records: list[dict[str, float]] = []

    @property
    def loss(self) -> float | None:
        """``train/loss`` of the last step that was read."""
        return next((r["train/loss"] for r in reversed(self.records) if "train/loss" in r), None)

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = list(state_dict["records"])

    def read(self) -> list[dict[str, float]]:
        """As of a :class:`Reader`; what is read is kept."""
        read = super().read()
        self.records += read
        return read

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.add_validation(trainer)
        if trainer.is_global_zero:
            self.write()

    def add_validation(self, trainer: Trainer, epoch: float | None = None) -> None:
        """Record a validation, if there was one; of the trainer's epoch, or of another."""
        self.read()
        step, metrics = _moment(trainer), trainer.callback_metrics
        logged = {k: v for k, v in metrics.items() if k.startswith("valid/")}
        if epoch is not None:
            step["epoch"] = epoch
        if logged:
            values = _floats(list(logged.values()))
            self.records.append({**step, **dict(zip(logged, values, strict=True))})

    def write(self) -> None:
        """Write the CSV file: ``epoch``, ``step``, every metric (empty where there is none)."""
        metrics = {k for r in self.records for k in r} - {"epoch", "step"}
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", "step", *sorted(metrics)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        write_text(self.path, text.getvalue(), ours=is_history)


def _moment(trainer: Trainer) -> dict[str, float]:
    return {"epoch": trainer.current_epoch, "step": trainer.global_step}


def _floats(scalars: Sequence[Tensor]) -> list[float]:
    """Values of 0-d tensors, with one transfer for each of their devices."""
    found = [0.0] * len(scalars)
    for device in {s.device for s in scalars}:
        places = [i for i, s in enumerate(scalars) if s.device == device]
        values = torch.cat([scalars[i].reshape(1) for i in places]).tolist()
        for i, value in zip(places, values, strict=True):
            found[i] = value
    return found


class ProgressReport(Callback):
    """Reports each epoch's batches, with the last loss that the history has read."""

    def __init__(self, report: Report, history: History) -> None:
        self.report, self.history = report, history

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        what = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        total = trainer.num_training_batches  # infinite where the data do not say
        total = batch_idx + 1 if math.isinf(total) else int(total)
        loss = self.history.loss
        note = "" if loss is None else f"loss {loss:.3f}"
        self.report(what, min(batch_idx + 1, total), total, note)


is_history = begins("epoch,step")


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read a history CSV: one record a step or validation, with the metrics it has.

    Raises:
        ValueError: the file is damaged or no history.
    """
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            records = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]
            if not all({"epoch", "step"} <= set(record) for record in records):
                raise ValueError("no epoch, no step")
    except (ValueError, TypeError, csv.Error):
        raise ValueError(f"{path} is damaged or no history of a run") from None
    return records
