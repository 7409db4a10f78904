"""What a run writes while it goes on: its history as CSV, and the state to resume from."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from fastcam._util.files import begins, write_atomic, write_text
from fastcam._util.progress import Report
from fastcam._util.torch_files import NotATorchFile, read_torch_file
from fastcam.models.checkpoint import pickle_says
from fastcam.models.weights import state_misfit
from fastcam.training.diverged import check_weights
from fastcam.training.processes import Processes

_STATE = ("pytorch-lightning_version", "state_dict")
_RESUME = (
    *_STATE,
    "epoch",
    "global_step",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
)


def is_run_state(path: Path) -> bool:
    """Whether a file is a checkpoint of Lightning's; nothing is loaded."""
    return pickle_says(path, _STATE[0])


def read_run_state(path: Path, task: LightningModule, *, resume: bool = True) -> dict[str, Any]:
    """Read the saved state of a run.

    Args:
        path: the file.
        task: the run's module, whose weights are in it.
        resume: whether the run goes on from it, for which it must hold more than weights.

    Raises:
        ValueError: the file is damaged, or of something else; the message names it and says what
            to do.
    """
    reason = None
    try:
        state = read_torch_file(path)
    except NotATorchFile as error:
        reason = str(error)
    else:
        if not isinstance(state, dict):
            reason = f"holds a {type(state).__name__}"
        elif lost := [k for k in (_RESUME if resume else _STATE) if k not in state]:
            reason = f"lacks {', '.join(lost)}"
        elif misfit := state_misfit(task, state["state_dict"]):
            reason = f"is the state of another network ({misfit})"
    if reason is not None:
        raise ValueError(
            f"{path} {reason}: the run cannot go on from it; remove the file to train anew from the"
            " beginning, or put back a copy of it"
        )
    return state


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or absent, and read with ``weights_only``.

    Args:
        task: the run's module, which what is read must fit.
    """

    def __init__(self, task: LightningModule) -> None:
        self.task = task

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        write_atomic(path, lambda file: torch.save(checkpoint, file), ours=is_run_state)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_run_state(Path(path), self.task)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class ResumeCheckpoint(Checkpoint):
    """Saves the whole state of the run at the end of each epoch, and every few minutes within one.

    Weights that are NaN or infinite are not saved: the last good state stays.

    Args:
        path: the file, replaced each time.
        minutes: time between two saves within an epoch.
        history: read before a save, so that a diverged run ends with the step it diverged in.
        processes: of the run, which save together when the first one's time has come.
    """

    def __init__(
        self, path: Path, minutes: float, history: History, processes: Processes | None = None
    ) -> None:
        self.path, self.minutes, self.history = path, minutes, history
        self.processes = processes or Processes()
        self._saved = time.monotonic()

    def _save(self, trainer: Trainer) -> None:
        self.history.read()
        check_weights(trainer.lightning_module, f"after step {trainer.global_step}")
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Of several processes they agree no more often than the history looks.
        if self.processes.count > 1 and (batch_idx + 1) % self.history.every:
            return
        last = trainer.is_last_batch  # the end of the epoch is saved after its validation
        if not last and self.processes.first(self._is_late):
            self._save(trainer)

    def _is_late(self) -> bool:
        return time.monotonic() - self._saved >= 60 * self.minutes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)


class Patience(EarlyStopping):
    """Early stopping that a resumed run obeys at once: one killed after its last epoch is over."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


#: Steps between two looks at what a GPU has logged: each look waits for the device.
READ_EVERY = 50


class History(Callback):
    """Collects the logged metrics, one record a step or validation, and writes them as CSV.

    What a step logs stays on its device until it is read, in one transfer for ``every`` steps, and
    at the latest before a validation or a save. Every step's record is then examined, in order.
    The records are part of the resume state, so a resumed run has one unbroken history.

    Args:
        path: the CSV file, rewritten at the end of each epoch.
        examine: called with each step's record; what it raises ends the run, and until then no
            state is saved.
        every: steps between two transfers.
    """

    def __init__(
        self, path: Path, examine: Callable[[Mapping[str, float]], None], every: int = 1
    ) -> None:
        self.path, self.examine, self.every = path, examine, every
        self.records: list[dict[str, float]] = []
        self._unread: list[tuple[dict[str, float], dict[str, Tensor]]] = []

    @property
    def loss(self) -> float | None:
        """``train/loss`` of the last step that was read."""
        return next((r["train/loss"] for r in reversed(self.records) if "train/loss" in r), None)

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = list(state_dict["records"])

    def read(self) -> None:
        """Read and examine the steps since the last call.

        Raises:
            TrainingDiverged: by ``examine``, now and in every later call.
        """
        values = iter(_floats([v for _, logged in self._unread for v in logged.values()]))
        read = [{**step, **{k: next(values) for k in logged}} for step, logged in self._unread]
        for record in read:
            self.examine(record)
        self.records += read
        self._unread.clear()

    def _logged(self, trainer: Trainer, prefix: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        # The trainer holds the last value of every metric; only those of this moment belong to the
        # record.
        step: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        return step, {k: v for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unread.append(self._logged(trainer, "train/"))
        if len(self._unread) >= self.every or trainer.is_last_batch:  # validation comes next
            self.read()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.add_validation(trainer)
        if trainer.is_global_zero:
            self.write()

    def add_validation(self, trainer: Trainer, epoch: float | None = None) -> None:
        """Record a validation, if there was one; of the trainer's epoch, or of another."""
        self.read()
        step, logged = self._logged(trainer, "valid/")
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
