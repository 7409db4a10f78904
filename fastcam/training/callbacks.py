"""What a run leaves behind while it goes on: its history as CSV, and the state to resume from."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import CheckpointIO

from fastcam._files import write_atomic, write_text
from fastcam._progress import Report
from fastcam.training.diverged import check_weights


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or absent, and read with ``weights_only``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        write_atomic(path, lambda temporary: torch.save(checkpoint, temporary))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class ResumeCheckpoint(Checkpoint):
    """Saves the whole state of the run at the end of each epoch, and every few minutes within one.

    Weights that are no numbers are not saved: what was saved before them stays.

    Args:
        path: the file, replaced each time.
        minutes: time between two saves within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.minutes = path, minutes
        self._saved = time.monotonic()

    def _save(self, trainer: Trainer) -> None:
        check_weights(trainer.lightning_module, f"after step {trainer.global_step}")
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.is_last_batch  # the end of the epoch is saved after its validation
        if not last and time.monotonic() - self._saved >= 60 * self.minutes:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)


class Patience(EarlyStopping):
    """Early stopping that a resumed run obeys at once: one killed after its last epoch is over."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class History(Callback):
    """Collects the logged metrics, one record a step or validation, and writes them as CSV.

    The records are part of the resume state, so a resumed run has one unbroken history.

    Args:
        path: the CSV file, rewritten at the end of each epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = list(state_dict["records"])

    def _add(self, trainer: Trainer, prefix: str) -> None:
        # The trainer holds the last value of every metric; only those of this moment belong to the
        # record.
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        if values:
            step = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            self.records.append({**step, **values})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._add(trainer, "train/")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add(trainer, "valid/")
        self.write()

    def add_start(self, trainer: Trainer) -> None:
        """Record a validation before the first step."""
        self._add(trainer, "valid/")

    def write(self) -> None:
        """Write the CSV file: ``epoch``, ``step``, every metric (empty where there is none)."""
        metrics = {k for r in self.records for k in r} - {"epoch", "step"}
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", "step", *sorted(metrics)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        write_text(self.path, text.getvalue())


class ProgressReport(Callback):
    """Reports each epoch's batches."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        what = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        loss = float(trainer.callback_metrics["train/loss"])
        total = int(trainer.num_training_batches)
        self.report(what, min(batch_idx + 1, total), total, f"loss {loss:.3f}")


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read a history CSV: one record a step or validation, with the metrics it has."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]
