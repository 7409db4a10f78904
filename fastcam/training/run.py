"""Runs a training: data, trainer, resumption, and the checkpoint at the end."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from fastcam._util.claim import claim
from fastcam._util.dropout import BatchShare, shared_dropout
from fastcam._util.files import write_json
from fastcam._util.progress import Report, reporting
from fastcam._util.run_files import BEST, CHECKPOINT, HISTORY, RESULT, RESUME, SETTINGS
from fastcam._util.stop import Stop
from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import check_kind
from fastcam.models import Checkpoint, ModelSpec, save_checkpoint
from fastcam.models.registry import register_all, registered
from fastcam.training.config import NOTHING, PASSES, STEPS, TrainConfig
from fastcam.training.fingerprint import batches_settings, loss_settings
from fastcam.training.history import READ_EVERY, History, ProgressReport
from fastcam.training.inputs import (
    check_size,
    drawn_regions,
    folder_batches,
    initial_checkpoint,
    open_data,
)
from fastcam.training.memory import keep_freed_memory
from fastcam.training.nonfinite import TrainingDiverged, check_weights
from fastcam.training.objective import LabelLoss
from fastcam.training.processes import Processes, check_counts, launched, several
from fastcam.training.recalibrate import recalibrate
from fastcam.training.resume import (
    AtomicCheckpointIO,
    BestCheckpoint,
    Patience,
    ResumeCheckpoint,
    read_run_state,
)
from fastcam.training.run_folder import (
    FROM_HERE,
    OURS,
    TrainResult,
    check_folder,
    digests,
    finished,
    from_here,
    remove_states,
    tidy,
)
from fastcam.training.task import AttributeTask

# What Lightning calls them; with 16-mixed it scales the losses (torch.amp.GradScaler).
_PRECISIONS: dict[str, Any] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: LightningDataModule | None = None,
    loss: LabelLoss | None = None,
    progress: bool | Report | None = True,
) -> TrainResult:
    """Train or fine-tune, and write ``model.pt``, ``history.csv``, ``settings.json`` into ``out``.

    A run that was killed goes on where it last saved (every epoch, and every few minutes within
    one) when it is called again with the same settings, and ends with the weights that it would
    have had. A finished run is kept. Several processes (``config.devices``, or torchrun) and
    batches in parts (``config.accumulate``) give the result of one up to rounding, and a run may go
    on with another number of them.

    Args:
        config: the settings.
        out: folder of the run.
        data: batches in place of the folder that ``config.data`` names: :class:`Batches`, or a data
            module with ``attributes`` (and ``exclusive``). Augmentation, cut-out, order and limits
            are then its own, and a killed run goes on with the epoch that it was in. The settings
            hold their labels' names and, of :class:`Batches`, how many there are; whether the
            images are the same nobody looks.
        loss: of the labels, see :class:`AttributeTask`. The settings hold its name and what it was
            made with (numbers, texts, tensors), not what it computes.
        progress: True draws bars while images are read and in each epoch, on a terminal or in a
            notebook that has ipywidgets; a function is called with (what, done, total, note).

    Returns:
        Paths and counts of the finished run.

    Raises:
        ValueError: settings that do not fit the data, or ``out`` holds a run with other settings,
            from another start or on other attribute labels, or a damaged one.
        FileNotFoundError: data or checkpoint are missing.
        TrainingDiverged: the loss, its gradient or the weights are no numbers any more; no
            ``model.pt`` is written, and the last good state is kept.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process trains there.
        ProcessEndedError: one of several processes ended; the same call goes on.
        OSError: a file cannot be written; what was saved before is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM (:class:`fastcam._util.stop.Terminated`): after the
            step it has saved, and the same call goes on there. What breaks off a step, after two
            seconds or with a second signal, goes on where it last saved.
    """
    out = Path(out)
    settings = {**config.settings(), **digests(config)}
    if loss is not None:
        settings |= loss_settings(loss)
    if data is not None:
        settings |= batches_settings(data)
    check_counts(config.devices, config.nodes)
    if data is not None and (config.devices > 1 or launched()):
        raise ValueError(
            "data: batches of your own cannot be divided among processes; expected a folder beside "
            f"devices {config.devices}, or AttributeTask in a Trainer of your own with "
            "strategy='ddp' and use_distributed_sampler=False, whose loaders give each process "
            "its share"
        )
    # needs no lock, and its folder may be read-only
    kept = None if launched() else finished(out, settings)
    if kept is not None:
        tidy(out)
        return kept
    cuda = pick_device(config.device).type == "cuda"
    if config.precision == "float16" and not cuda:
        raise ValueError(
            "precision: float16 needs a GPU, got a run on the CPU; expected bfloat16 or float32"
        )
    others = (_in_another, (config, out, loss, registered()))
    with several(config.devices, cuda, *others) as processes, ExitStack() as stack:
        processes.first(lambda: stack.enter_context(claim(out)))
        done = processes.first(lambda: finished(out, settings))
        if done is not None:
            processes.first(lambda: remove_states(out))
            return done
        report = stack.enter_context(reporting(progress if processes.rank == 0 else None))
        return _train(config, out, settings, data, loss, report, processes)


def _in_another(
    config: TrainConfig, out: Path, loss: LabelLoss | None, models: Mapping[str, ModelSpec]
) -> None:
    """What the other processes of a run do."""
    register_all(models)
    keep_freed_memory()
    train(config, out, loss=loss)


class _Launched(DDPStrategy):
    """Of processes that run already. Lightning's takes a launcher, with which it refuses to be in a
    notebook."""

    def _configure_launcher(self) -> None:
        pass


def _train(
    config: TrainConfig,
    out: Path,
    settings: dict[str, Any],
    data: LightningDataModule | None,
    loss: LabelLoss | None,
    progress: Report | None,
    processes: Processes,
) -> TrainResult:
    device = pick_device(config.device)
    first = processes.rank == 0
    processes.first(lambda: check_folder(out, settings))
    resume = out / RESUME
    folder = open_data(config) if data is None else None
    checkpoint = _network(config, data if folder is None else folder, own=folder is None)
    task = AttributeTask(checkpoint, config, loss)
    task.share.rank, task.share.count = processes.rank, processes.count
    task.alone = False
    resuming = processes.first(lambda: resume.is_file())
    if resuming and (first or not resume.is_file()):
        read_run_state(resume, task)  # a damaged one is told before all images are read
    guidance = config.guidance
    sources: dict[str, int] = {}
    if folder is not None:
        data = processes.in_turn(lambda: folder_batches(config, checkpoint, folder, progress))
        data.share = BatchShare(processes.rank, processes.count)
        if drawn_regions(config):
            sources = data.train.landmark_sources
    batches: Any = data
    every = 1 if device.type == "cpu" else READ_EVERY
    history = History(out / HISTORY, task.examine, every=every)
    callbacks: list[Any] = [history]
    if config.patience:
        callbacks += _early_stopping(out, config.patience)
    # Where in an epoch batches of others are cannot be restored.
    minutes = config.save_minutes if folder is not None else math.inf
    ending = Stop()
    callbacks.append(ResumeCheckpoint(resume, minutes, history, processes, ending))
    if progress is not None:
        callbacks.append(ProgressReport(progress, history))
    # Or Lightning takes the tasks of a job of Slurm's for processes of this run.
    torchrun = processes.count > 1 or TorchElasticEnvironment.detect()
    environment = TorchElasticEnvironment() if torchrun else LightningEnvironment()
    dropout: AbstractContextManager[None] = nullcontext()
    if processes.count * config.accumulate > 1:
        dropout = shared_dropout(checkpoint.model, task.share)
        _warn_of_batch_norm(checkpoint.model, config.accumulate)
    with _quiet(), dropout, ending:
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=processes.local_count,
            num_nodes=processes.nodes,
            strategy=_Launched() if processes.count > 1 else "auto",
            use_distributed_sampler=False,
            precision=_PRECISIONS[config.precision],
            max_epochs=_passes(config, batches),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(task), environment],
            logger=False,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=int(folder is not None),
            # Validation draws Grad-CAM maps, which need gradients.
            inference_mode=False,
            default_root_dir=out,
        )
        _leave_sigterm(trainer)
        checkpoint.model.train()
        biases: dict[str, float] = {}
        # now that they have proved to fit
        noted = {**settings, FROM_HERE: from_here(out, settings)}
        processes.first(lambda: write_json(out / SETTINGS, noted, ours=OURS[SETTINGS]))
        try:
            if guidance is not None and config.start is not None and not resuming:
                trainer.validate(task, datamodule=batches, verbose=False)
                history.add_validation(trainer)
            trainer.fit(task, batches, ckpt_path=str(resume) if resuming else None)
            check_weights(checkpoint.model, "after the last step")
            if config.patience and not trainer.interrupted:
                if (out / BEST).is_file():
                    best_state = read_run_state(out / BEST, task, resume=False)["state_dict"]
                    task.load_state_dict(best_state)
                processes.any(False)  # all have read it: the first one is about to remove it
            if guidance is not None and guidance.recalibrate and not trainer.interrupted:
                valid = batches.val_dataloader() if folder is None else batches.all_valid()
                fit = partial(recalibrate, checkpoint, task.targets, valid, device)
                biases = processes.first(fit)
            if biases:  # the trainer gives the others the first one's weights
                trainer.validate(task, datamodule=batches, verbose=False)
        except SystemExit:  # Lightning's answer to Ctrl-C; older versions return
            if not trainer.interrupted:
                raise
        except TrainingDiverged as error:
            raise _diverged(out, error, write=first) from None
    if trainer.interrupted:
        ending.leave()
    if biases:
        history.add_validation(trainer, history.records[-1]["epoch"])
    checkpoint.model.to("cpu").eval()
    if config.channels_last:
        checkpoint.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return _finish(out, config, checkpoint, history, noted, biases, sources, processes)


def _network(config: TrainConfig, described: Any, own: bool) -> Checkpoint:
    """What a run begins with, once it is known to fit the data: a folder, or a module of one's
    ``own``."""
    if own and config.without != NOTHING:
        raise ValueError(
            "without: batches of your own hide for themselves (fastcam.data.RegionCutout); "
            f"expected {NOTHING!r}, got {config.without!r}"
        )
    if not hasattr(described, "attributes"):
        raise ValueError(
            "data: expected a data module with `attributes`, the names of the labels; see Batches"
        )
    exclusive = bool(getattr(described, "exclusive", False))
    checkpoint = initial_checkpoint(config, list(described.attributes), exclusive)
    if own and checkpoint.attributes != list(described.attributes):
        raise ValueError(  # of a folder the columns are taken by name
            f"data: expected batches whose labels are {', '.join(checkpoint.attributes)}, in this "
            f"order, got {', '.join(described.attributes)}"
        )
    check_kind(checkpoint, exclusive, "the data")
    if not own:
        check_size(checkpoint)
    return checkpoint


def _early_stopping(out: Path, patience: int) -> list[Callback]:
    """Ends a run that gets no better, and keeps its best weights."""
    stop = Patience("valid/loss", patience=patience, check_on_train_epoch_end=True, verbose=False)
    best = BestCheckpoint(
        dirpath=out,
        filename=Path(BEST).stem,
        monitor="valid/loss",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    return [stop, best]


def _finish(
    out: Path,
    config: TrainConfig,
    checkpoint: Checkpoint,
    history: History,
    noted: Mapping[str, Any],
    biases: dict[str, float],
    sources: dict[str, int],
    processes: Processes,
) -> TrainResult:
    """Write the trained network and what became of it; the folder then holds a finished run."""
    result = out / CHECKPOINT
    validations = [r for r in history.records if "valid/loss" in r]
    before = validations.pop(0) if validations and validations[0]["step"] == 0 else None
    # Early stopping keeps the epoch of the lowest validation loss, the first on a tie; new biases
    # were validated last.
    by_loss = config.patience and not biases
    kept = min(validations, key=lambda r: r["valid/loss"]) if by_loss else validations[-1]
    metrics = _valid_metrics(kept)
    start = None if before is None else _valid_metrics(before)
    record = {"settings": noted, "metrics": metrics, "biases": biases}
    checkpoint.history.append(record)
    skipped = int(sum(r.get("train/skipped", 0) for r in history.records))
    epochs = int(history.records[-1]["epoch"]) + 1
    found = {"before": start, "metrics": metrics, "biases": biases}

    def write() -> None:
        history.write()
        save_checkpoint(result, checkpoint)
        values = {"epochs": epochs, **found, "landmark_sources": sources}
        values |= {"skipped": skipped} if skipped else {}
        write_json(out / RESULT, values, ours=OURS[RESULT])
        remove_states(out)

    processes.first(write)
    return TrainResult(
        result, out / HISTORY, epochs, sources, before=start, after=metrics, biases=biases,
        skipped=skipped,
    )  # fmt: skip


def _passes(config: TrainConfig, batches: Any) -> int:
    """Over the training images; where the settings leave it open, by how many there are."""
    if config.epochs is not None:
        return config.epochs
    steps = getattr(batches, "steps", None)  # of an epoch; what batches of others have is not known
    return PASSES if steps is None else max(PASSES, -(-STEPS // steps))


def _leave_sigterm(trainer: Trainer) -> None:
    """Lightning's own handler saves nothing, and broadcasts in the midst of whatever goes on."""
    connector: Any = getattr(trainer, "_signal_connector", None)
    connector._sigterm_notifier_fn = lambda *_: None


def _warn_of_batch_norm(model: nn.Module, accumulate: int) -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    name = next((n for n, m in model.named_modules() if isinstance(m, kinds)), None)
    if name is not None:
        option, own = ("accumulate", "part") if accumulate > 1 else ("devices", "process")
        warnings.warn(
            f"{option}: batch norm ('{name}' and others) takes the statistics of each {own}'s own "
            f"images, so that the result is not quite that of one {own}",
            stacklevel=2,
        )


def _valid_metrics(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The validation metrics of a record as JSON has them: null for one that is not defined."""
    found = {k: float(v) for k, v in record.items() if k.startswith("valid/")}
    return {k: v if math.isfinite(v) else None for k, v in found.items()}


def _diverged(out: Path, error: TrainingDiverged, write: bool) -> TrainingDiverged:
    """Note in the folder how its run ended, and say what is left of it."""
    good = next((out / name for name in (BEST, RESUME) if (out / name).is_file()), None)
    message = f"the training in {out} diverged: {error}"
    message += f"; the last good state is kept in {good}" if good else "; nothing was saved before"
    if write:
        write_json(out / RESULT, {"diverged": message}, ours=OURS[RESULT])
    return TrainingDiverged(message)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's hints to itself; what a user must know is said elsewhere."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [x.level for x in loggers]
    for x in loggers:
        x.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.setLevel(level)
