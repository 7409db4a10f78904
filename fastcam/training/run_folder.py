"""The folder of a run: what is in it, whose it is, and whether it is finished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastcam._util.claim import LOCK, claim
from fastcam._util.files import LEFTOVERS, check_target, json_with, read_json, remove_ours
from fastcam._util.run_files import BEST, CHECKPOINT, HISTORY, RESULT, RESUME, SETTINGS
from fastcam._util.settings import differing
from fastcam.data.digests import DIGESTS, data_digests, file_digest
from fastcam.models.checkpoint import is_checkpoint
from fastcam.training.config import NOTHING, TrainConfig
from fastcam.training.fingerprint import BATCHES, LOSS_OPTIONS
from fastcam.training.history import is_history
from fastcam.training.resume import is_run_state


def is_result(path: Path) -> bool:
    return json_with("epochs", "landmark_sources")(path) or json_with("diverged")(path)


# How a file in the folder is known to be a run's.
OURS = {
    CHECKPOINT: is_checkpoint,
    HISTORY: is_history,
    SETTINGS: json_with("data", "epochs", "batch_size", "seed"),
    RESUME: is_run_state,
    BEST: is_run_state,
    RESULT: is_result,
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
    "optimizer": "sgd",
    "warmup": 0.0,
    "lr_batch": None,
    "nonfinite": "stop",
}
_PATHS = ("data", "start", "landmarks", "regions", "weights")
# Where these lie as seen from the run's folder, which may move together with them.
FROM_HERE, _PLACES = "from_here", ("data", "landmarks", "regions")
# What they do not say either, and nobody can tell any more.
_NOT_NOTED = (LOSS_OPTIONS, BATCHES)


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
        checkpoint: path of the trained model.
        history: path of the CSV with every step and validation.
        epochs: epochs that were run in all.
        landmark_sources: of faces: training images by the source of their landmarks; of other data:
            those that have a mask of each region; empty for batches, and where no region is drawn.
        kept: an earlier call had finished the run, and this one did nothing.
        before, after: validation metrics of the start and of the trained model (see
            :class:`fastcam.training.task.AttributeTask`), None for one that is not defined;
            ``before`` only for a fine-tuning with targets.
        biases: what was added to the biases of the guided attributes in the end, in logits (see
            :attr:`fastcam.training.GuidanceConfig.recalibrate`).
        skipped: batches without a step (see :attr:`fastcam.training.TrainConfig.nonfinite`).
    """

    checkpoint: Path
    history: Path
    epochs: int
    landmark_sources: dict[str, int]
    kept: bool = False
    before: Mapping[str, float | None] | None = None
    after: Mapping[str, float | None] = field(default_factory=dict)
    biases: Mapping[str, float] = field(default_factory=dict)
    skipped: int = 0


def remove_run(out: str | Path) -> None:
    """Remove what :func:`train` wrote into a folder, and the folder if nothing else is in it.

    A folder whose settings are not a run's is left as it is.
    """
    out = Path(out)
    if (out / SETTINGS).is_file() and OURS[SETTINGS](out / SETTINGS):
        for name in OURS:
            (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        out.rmdir()


def finished(out: Path, settings: dict[str, Any]) -> TrainResult | None:
    """The run in a folder, if it is over; it must have had these settings."""
    result, done = out / CHECKPOINT, out / RESULT
    if not (done.is_file() and result.is_file()):
        return None
    _check_claim(out, settings)
    check_target(result, OURS[CHECKPOINT])
    keys, remedy = ("epochs", "metrics", "landmark_sources"), "remove it to train anew"
    stored = read_json(done, "result of a run", keys, remedy)
    return TrainResult(
        result,
        out / HISTORY,
        stored["epochs"],
        stored["landmark_sources"],
        kept=True,
        before=stored.get("before"),
        after=stored["metrics"],
        biases=stored.get("biases", {}),
        skipped=stored.get("skipped", 0),
    )


def remove_states(out: Path) -> None:
    """Remove what a finished run needs no more."""
    remove_ours(out, {name: OURS[name] for name in (RESUME, BEST)})


def tidy(out: Path) -> None:
    """Remove what is left in a finished run's folder by a process that was killed at its end.

    Nothing happens where another process is at work, or the folder cannot be written.
    """
    left = [*(out / name for name in (RESUME, BEST, LOCK)), *out.glob(LEFTOVERS)]
    if any(path.exists() for path in left):
        with contextlib.suppress(OSError), claim(out):
            remove_states(out)


# Of files, among the settings; see :func:`differing` for those that earlier versions did not note.
_DIGESTS = ("start_sha256", "weights_sha256", *DIGESTS)


def digests(config: TrainConfig) -> dict[str, str]:
    """What lies behind the settings' paths: another file of the same name makes another run.

    Landmarks matter where a region is guided, measured or hidden.
    """
    regions = bool(config.guided_regions) or config.without != NOTHING
    found: dict[str, str | None] = {}
    if config.data:
        found |= data_digests(
            config.data, landmarks=config.landmarks, masks=config.regions, regions=regions
        )
    for key, path in {"start_sha256": config.start, "weights_sha256": config.weights}.items():
        found[key] = None if path is None else file_digest(path)
    return {key: digest for key, digest in found.items() if digest is not None}


def from_here(out: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The paths of a run's data, relative to its folder."""
    home = os.path.realpath(out)
    given = {name: settings[name] for name in _PLACES if settings.get(name)}
    return {name: os.path.relpath(os.path.realpath(path), home) for name, path in given.items()}


def check_folder(out: Path, settings: dict[str, Any]) -> None:
    """A folder may hold this run, begun, and nothing of others that it would have to replace."""
    _check_claim(out, settings)
    for name, ours in OURS.items():
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
    remedy = "name another folder, or remove this one"  # without them it is nobody's
    stored = read_json(path, "settings of a run", remedy=remedy)
    places, here = stored.pop(FROM_HERE, {}), from_here(out, settings)
    settings = {k: v for k, v in settings.items() if k in stored or k not in _NOT_NOTED}
    changed = differing(_compared(stored), _compared(settings), optional=_DIGESTS)
    for name in ("start", "weights"):  # the same file may have moved
        digest = stored.get(f"{name}_sha256")
        if digest is not None and digest == settings.get(f"{name}_sha256"):
            changed.discard(name)
    changed -= {name for name in here if here[name] == places.get(name)}
    if changed:
        data = ": the data have changed since" if changed <= set(DIGESTS) else ""
        raise ValueError(
            f"{out} holds a run with other settings ({', '.join(sorted(changed))}){data};"
            " name another folder, or remove this one"
        )


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a run, those of the guidance beside the others as ``guidance.pull``.

    The share of hidden images decides nothing where nothing is hidden, nor does how a path is
    written.
    """
    found: dict[str, Any] = dict(_LATER)
    for name, value in settings.items():
        if name in _PATHS and value:
            value = os.path.realpath(value)
        inner = value if isinstance(value, dict) else {}
        found |= {f"{name}.{k}": v for k, v in inner.items()} if inner else {name: value}
    if found["without"] == NOTHING:
        del found["hide_share"]
    return found
