"""The state that a killed run goes on from: when it is saved, how, and how it is read."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO

from fastcam._util.files import write_atomic
from fastcam._util.stop import Stop
from fastcam._util.torch_files import NotATorchFile, read_torch_file
from fastcam.models.checkpoint import pickle_says
from fastcam.models.weights import state_misfit
from fastcam.training.history import History
from fastcam.training.nonfinite import check_weights
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
    """Saves the whole state of the run at the end of each epoch, every few minutes within one, and
    when somebody asks for its end.

    Weights that are NaN or infinite are not saved: the last good state stays.

    Args:
        path: the file, replaced each time.
        minutes: time between two saves within an epoch; infinite: never within one.
        history: read before a save, so that a diverged run ends with the step it diverged in.
        processes: of the run, which save together when the first one's time has come, or any is
            asked to end.
        stop: who asks.
    """

    def __init__(
        self,
        path: Path,
        minutes: float,
        history: History,
        processes: Processes | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.path, self.minutes, self.history = path, minutes, history
        self.processes, self.stop = processes or Processes(), stop or Stop()
        self._saved = time.monotonic()

    def _save(self, trainer: Trainer) -> None:
        self.history.read()
        check_weights(trainer.lightning_module, f"after step {trainer.global_step}")
        self.stop.saving = True
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self.stop.saving = False
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = time.monotonic()
        self.stop.patient = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.patient = False
        if self._ending():  # while the last state was saved
            self.stop.leave()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Of several processes they agree no more often than the history looks.
        if self.processes.count > 1 and (batch_idx + 1) % self.history.every:
            return
        if trainer.is_last_batch:  # the end of the epoch is saved after its validation
            return
        late, ending = self.processes.any(self._is_late(), self.stop.asked is not None)
        if late or (ending and self.minutes < math.inf):
            self._save(trainer)
        if ending:
            self.stop.leave()

    def _is_late(self) -> bool:
        return self.processes.rank == 0 and time.monotonic() - self._saved >= 60 * self.minutes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if self._ending():
            self.stop.leave()

    def _ending(self) -> bool:
        return self.processes.any(self.stop.asked is not None)[0]


class BestCheckpoint(ModelCheckpoint):
    """The best weights of a run, whose folder may have been moved since it was stopped.

    Lightning's forgets the best score if its folder is another one, and then takes the next epoch's
    weights for better.
    """

    @property
    def state_key(self) -> str:
        """As of Lightning's own, so that runs go on that were stopped before this class was."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str | None) -> str | None:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths if name in state_dict}
        best = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        )


class Patience(EarlyStopping):
    """Early stopping that a resumed run obeys at once: one killed after its last epoch is over."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
