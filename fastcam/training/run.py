"""Runs a training: data, trainer, resumption, and the checkpoint at the end."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch import nn

from fastcam._util.claim import claim
from fastcam._util.dropout import BatchShare, shared_dropout
from fastcam._util.files import check_target, json_with, read_json, write_json
from fastcam._util.progress import Report
from fastcam.data.folder import label_file
from fastcam.evaluation import pick_device
from fastcam.evaluation.splits import check_kind
from fastcam.models import ModelSpec, register, save_checkpoint
from fastcam.models.checkpoint import is_checkpoint
from fastcam.models.registry import registered
from fastcam.training.callbacks import (
    READ_EVERY,
    AtomicCheckpointIO,
    History,
    Patience,
    ProgressReport,
    ResumeCheckpoint,
    is_history,
    is_run_state,
    read_run_state,
)
from fastcam.training.config import NOTHING, TrainConfig
from fastcam.training.diverged import TrainingDiverged, check_weights
from fastcam.training.inputs import folder_batches, initial_checkpoint, open_data
from fastcam.training.memory import keep_freed_memory
from fastcam.training.objective import LabelLoss
from fastcam.training.processes import Processes, check_counts, launched, several
from fastcam.training.recalibrate import recalibrate
from fastcam.training.task import AttributeTask

CHECKPOINT = "model.pt"
HISTORY = "history.csv"
SETTINGS = "settings.json"
RESUME = "last.ckpt"
RESULT = "result.json"
BEST = "best.ckpt"


def _is_result(path: Path) -> bool:
    return json_with("epochs", "landmark_sources")(path) or json_with("diverged")(path)


# How a file in the folder is known to be a run's.
_OURS = {
    CHECKPOINT: is_checkpoint,
    HISTORY: is_history,
    SETTINGS: json_with("data", "epochs", "batch_size", "seed"),
    RESUME: is_run_state,
    BEST: is_run_state,
    RESULT: _is_result,
}

# What runs of earlier versions do not say of themselves: the settings they had, were there any.
_LATER = {
    "without": NOTHING,
    "hide_share": 0.5,
    "regions": None,
    "group_step": 0.01,
    "guidance.losses": ["iou"],
    "guidance.target_layer": None,
    "weights": None,
    "architecture": None,
}


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        checkpoint: path of the trained model.
        history: path of the CSV with every step and validation.
        epochs: epochs that were run in all.
        landmark_sources: of faces: training images by the source of their landmarks; of other data:
            those that have a mask of each region; empty for batches.
        kept: an earlier call had finished the run, and this one did nothing.
        before, after: validation metrics of the start and of the trained model (see
            :class:`fastcam.training.task.AttributeTask`), None for one that is not defined;
            ``before`` only for a fine-tuning with targets.
        biases: what was added to the biases of the guided attributes in the end, in logits (see
            :attr:`fastcam.training.GuidanceConfig.recalibrate`).
    """

    checkpoint: Path
    history: Path
    epochs: int
    landmark_sources: dict[str, int]
    kept: bool = False
    before: Mapping[str, float | None] | None = None
    after: Mapping[str, float | None] = field(default_factory=dict)
    biases: Mapping[str, float] = field(default_factory=dict)


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: LightningDataModule | None = None,
    loss: LabelLoss | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Train or fine-tune, and write ``model.pt``, ``history.csv``, ``settings.json`` into ``out``.

    A run that was killed goes on where it last saved (every epoch, and every few minutes within
    one) when it is called again with the same settings, and ends with the weights that it would
    have had. A finished run is kept. Several processes (``config.devices``, or torchrun) give the
    result of one up to rounding, and a run may go on with another number of them.

    Args:
        config: the settings.
        out: folder of the run.
        data: batches in place of the folder that ``config.data`` names: :class:`Batches`, or a data
            module with ``attributes`` (and ``exclusive``). Augmentation, cut-out, order and limits
            are then its own, and a killed run goes on with the epoch that it was in.
        loss: of the labels, see :class:`AttributeTask`.
        progress: called with (what, done, total, note) while images are read and in each epoch.

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
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    out = Path(out)
    settings = {**config.settings(), **_digests(config)}
    if loss is not None:
        settings["loss"] = getattr(loss, "__qualname__", type(loss).__name__)
    check_counts(config.devices, config.nodes)
    if data is not None and (config.devices > 1 or launched()):
        raise ValueError(
            "data: batches of your own cannot be divided among processes; expected a folder beside "
            f"devices {config.devices}, or AttributeTask in a Trainer of your own with "
            "strategy='ddp', whose loaders give each process its share"
        )
    # needs no lock, and its folder may be read-only
    kept = None if launched() else _finished(out, settings)
    if kept is not None:
        return kept
    cuda = pick_device(config.device).type == "cuda"
    others = (_in_another, (config, out, loss, registered()))
    with several(config.devices, cuda, *others) as processes, ExitStack() as stack:
        processes.first(lambda: stack.enter_context(claim(out)))
        done = processes.first(lambda: _finished(out, settings))
        return done or _train(config, out, settings, data, loss, progress, processes)


def _in_another(
    config: TrainConfig, out: Path, loss: LabelLoss | None, models: Mapping[str, ModelSpec]
) -> None:
    """What the other processes of a run do."""
    for name, spec in models.items():
        register(name, spec)
    keep_freed_memory()
    train(config, out, loss=loss)


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
    progress = progress if first else None
    processes.first(lambda: _check_folder(out, settings))
    result, done, resume = out / CHECKPOINT, out / RESULT, out / RESUME
    folder = open_data(config) if data is None else None
    described: Any = data if folder is None else folder
    if data is not None and config.without != NOTHING:
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
    check_kind(checkpoint, exclusive, "the data")
    task = AttributeTask(checkpoint, config, loss)
    resuming = processes.first(lambda: resume.is_file())
    if resuming and (first or not resume.is_file()):
        read_run_state(resume, task)  # a damaged one is told before all images are read
    guidance = config.guidance
    sources: dict[str, int] = {}
    if folder is not None:
        data = processes.in_turn(lambda: folder_batches(config, checkpoint, folder, progress))
        data.share = BatchShare(processes.rank, processes.count)
        sources = data.train.landmark_sources
    batches: Any = data
    every = 1 if device.type == "cpu" else READ_EVERY
    history = History(out / HISTORY, task.examine, every=every)
    callbacks: list[Any] = [history]
    if config.patience:
        best = ModelCheckpoint(
            dirpath=out,
            filename=Path(BEST).stem,
            monitor="valid/loss",
            save_weights_only=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        stop = Patience(
            "valid/loss", patience=config.patience, check_on_train_epoch_end=True, verbose=False
        )
        callbacks += [stop, best]
    # Where in an epoch batches of others are cannot be restored.
    minutes = config.save_minutes if folder is not None else math.inf
    callbacks.append(ResumeCheckpoint(resume, minutes, history, processes))
    if progress is not None:
        callbacks.append(ProgressReport(progress, history))
    environment: list[Any] = []
    dropout: AbstractContextManager[None] = nullcontext()
    if processes.count > 1:
        environment = [TorchElasticEnvironment()]
        dropout = shared_dropout(checkpoint.model, batches.share)
        _warn_of_batch_norm(checkpoint.model)
    with _quiet(), dropout:
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=processes.local_count,
            num_nodes=processes.nodes,
            strategy="ddp" if processes.count > 1 else "auto",
            use_distributed_sampler=False,
            precision="bf16-mixed" if config.precision == "bfloat16" else "32-true",
            max_epochs=config.epochs,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(task), *environment],
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
        checkpoint.model.train()
        biases: dict[str, float] = {}
        # now that they have proved to fit
        processes.first(lambda: write_json(out / SETTINGS, settings, ours=_OURS[SETTINGS]))
        try:
            if guidance is not None and config.start is not None and not resuming:
                trainer.validate(task, datamodule=batches, verbose=False)
                history.add_validation(trainer)
            trainer.fit(task, batches, ckpt_path=str(resume) if resuming else None)
            check_weights(checkpoint.model, "after the last step")
            if config.patience and (out / BEST).is_file() and not trainer.interrupted:
                best_state = read_run_state(out / BEST, task, resume=False)["state_dict"]
                task.load_state_dict(best_state)
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
        raise KeyboardInterrupt
    if biases:
        history.add_validation(trainer, history.records[-1]["epoch"])
    checkpoint.model.to("cpu").eval()
    validations = [r for r in history.records if "valid/loss" in r]
    before = validations.pop(0) if validations and validations[0]["step"] == 0 else None
    # Early stopping keeps the epoch of the lowest validation loss, the first on a tie; new biases
    # were validated last.
    by_loss = config.patience and not biases
    kept = min(validations, key=lambda r: r["valid/loss"]) if by_loss else validations[-1]
    metrics = _valid_metrics(kept)
    start = None if before is None else _valid_metrics(before)
    record = {"settings": settings, "metrics": metrics, "biases": biases}
    checkpoint.history.append(record)
    epochs = int(history.records[-1]["epoch"]) + 1
    found = {"before": start, "metrics": metrics, "biases": biases}

    def write() -> None:
        history.write()
        save_checkpoint(result, checkpoint)
        values = {"epochs": epochs, **found, "landmark_sources": sources}
        write_json(done, values, ours=_OURS[RESULT])
        for leftover in (RESUME, BEST):
            (out / leftover).unlink(missing_ok=True)

    processes.first(write)
    return TrainResult(
        result, out / HISTORY, epochs, sources, before=start, after=metrics, biases=biases
    )


def _warn_of_batch_norm(model: nn.Module) -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    name = next((n for n, m in model.named_modules() if isinstance(m, kinds)), None)
    if name is not None:
        warnings.warn(
            f"devices: batch norm ('{name}' and others) takes the statistics of each process's own "
            "images, so that the result is not quite that of one process",
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
        write_json(out / RESULT, {"diverged": message}, ours=_is_result)
    return TrainingDiverged(message)


def remove_run(out: str | Path) -> None:
    """Remove what :func:`train` wrote into a folder, and the folder if nothing else is in it.

    A folder whose settings are not a run's is left as it is.
    """
    out = Path(out)
    if (out / SETTINGS).is_file() and _OURS[SETTINGS](out / SETTINGS):
        for name in _OURS:
            (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        out.rmdir()


def _finished(out: Path, settings: dict[str, Any]) -> TrainResult | None:
    """The run in a folder, if it is over; it must have had these settings."""
    result, done = out / CHECKPOINT, out / RESULT
    if not (done.is_file() and result.is_file()):
        return None
    _check_claim(out, settings)
    check_target(result, _OURS[CHECKPOINT])
    stored = read_json(done, "result of a run", ("epochs", "metrics", "landmark_sources"))
    return TrainResult(
        result,
        out / HISTORY,
        stored["epochs"],
        stored["landmark_sources"],
        kept=True,
        before=stored.get("before"),
        after=stored["metrics"],
        biases=stored.get("biases", {}),
    )


_DIGESTS = ("start_sha256", "labels_sha256", "weights_sha256")


def _digests(config: TrainConfig) -> dict[str, str]:
    """What lies behind the settings' paths: another file of the same name makes another run."""
    labels = label_file(config.data) if config.data else None
    files = dict(zip(_DIGESTS, (config.start, labels, config.weights), strict=True))
    found = {}
    for key, path in files.items():
        if path is not None and Path(path).is_file():
            digest = hashlib.sha256()
            with open(path, "rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            found[key] = digest.hexdigest()
    return found


def _check_folder(out: Path, settings: dict[str, Any]) -> None:
    """A folder may hold this run, begun, and nothing of others that it would have to replace."""
    _check_claim(out, settings)
    for name, ours in _OURS.items():
        if name != RESUME:  # read later, with a message of its own
            check_target(out / name, ours)


def _check_claim(out: Path, settings: dict[str, Any]) -> None:
    """A folder that holds a run, begun or finished, must hold one with these settings."""
    path = out / SETTINGS
    began = [name for name in (RESUME, CHECKPOINT) if (out / name).is_file()]
    if not began:
        return
    if not path.is_file():
        raise ValueError(
            f"{out} holds {began[0]} without {SETTINGS}, so that nobody can tell of which run it"
            " is; name another folder, or move it away"
        )
    stored = read_json(path, "settings of a run")
    missing = {k for k in _DIGESTS if k not in settings}  # a file is gone
    stored, settings = _compared(stored), _compared(settings)
    keys = {*stored, *settings} - missing
    changed = sorted(k for k in keys if stored.get(k) != settings.get(k))
    if changed:
        raise ValueError(
            f"{out} holds a run with other settings ({', '.join(changed)});"
            " name another folder, or remove this one"
        )


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a run, those of the guidance beside the others as ``guidance.pull``.

    The share of hidden images decides nothing where nothing is hidden.
    """
    found: dict[str, Any] = dict(_LATER)
    for name, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        found |= {f"{name}.{k}": v for k, v in inner.items()} if inner else {name: value}
    if found["without"] == NOTHING:
        del found["hide_share"]
    return found


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
