"""What ``python -m bench faults`` kills: commands of fastcam's, on tiny networks and images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from numpy.typing import NDArray

from fastcam.cli.program import app, main
from fastcam.data import CelebA, PreparedFaces
from fastcam.data.cache import _RECORD, _RECORDS, VARIABLE
from fastcam.faces import writer
from fastcam.regions import detect
from fastcam.training.resume import ResumeCheckpoint
from fastcam.training.task import AttributeTask

FACES, BASE = "faces", "base"
_SMALL = ["--device", "cpu", "--workers", "1", "--batch-size", "8"]
_NAMES = ["--attributes", "Wearing_Lipstick,Heavy_Makeup,Smiling"]
_NEW = ["--model", "small", "--size", "32", *_SMALL]


@app.command("faults-cache", hidden=True)
def _cache(data: Path) -> None:
    """Decode images into mapped files of three sizes, and look at each once."""
    faces = CelebA(data, "all")
    for size in (32, 48, 64):
        prepared = PreparedFaces(faces, size, cache=True, workers=2)
        for index in range(len(prepared)):
            prepared[index]


class _Detector:
    """In place of dlib's, which takes a second to load: points that the pixels decide."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return np.full((68, 2), image.mean(), np.float32)


def _any(*patterns: str) -> Callable[[Path], bool]:
    """Whether there is a file of such a name."""
    return lambda out: any(path.is_file() for p in patterns for path in out.glob(p))


def _any_decoded(out: Path) -> bool:
    files = (out / "caches").glob(f"*/{_RECORDS}")
    return any(np.fromfile(file, _RECORD)["stamp"].any() for file in files)


@dataclass(frozen=True)
class Case:
    """A command that is killed and given again.

    Attributes:
        name: of it.
        devices: processes that train together.
        arguments: of the command line, from the folder of the data and that of the results.
        work: whose calls are counted: (of what, a function's name there).
        saved: whether a killed one has left something of its work in the folder of the results.
    """

    name: str
    devices: int
    arguments: Callable[[Path, Path], list[str]]
    work: tuple[Any, str]
    saved: Callable[[Path], bool]

    def run(self, data: Path, out: Path, worked: Path, *, often: bool) -> int:
        """Do it in this process, which is a fork of one without threads.

        Args:
            worked: a file that grows by a byte with each piece of work, by whichever process.
            often: save the state of a run after each step, in place of every five minutes.
        """
        worked.write_bytes(b"")
        _count(*self.work, worked)
        os.environ[VARIABLE] = str(out / "caches")
        torch.set_num_threads(1)
        writer._CHUNK, detect.CHUNK = 4, 8  # in place of half a second's work
        detect.FaceDetector = _Detector  # type: ignore[assignment, misc]
        detect.find_predictor = lambda _=None: Path(__file__)  # type: ignore[assignment]
        if often:
            ResumeCheckpoint._is_late = lambda self: self.processes.rank == 0  # type: ignore[method-assign]
        # As they are, others import torch anew, which takes longer than all the rest.
        torch.multiprocessing.start_processes = partial(
            torch.multiprocessing.start_processes, start_method="fork"
        )
        return main(self.arguments(data, out))


def _count(place: Any, name: str, worked: Path) -> None:
    """Count the calls of a function in a file; those of processes forked from this one, too."""
    function = getattr(place, name)

    @wraps(function)
    def counted(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        with worked.open("ab") as file:
            file.write(b".")
        return found

    setattr(place, name, counted)


def _train(devices: int, data: Path, out: Path) -> list[str]:
    return [
        "train", str(data / FACES), "-o", str(out / "run"), *_NEW, *_NAMES, "--epochs", "3",
        "--patience", "2", "--lr", "0.05", "--devices", str(devices),
    ]  # fmt: skip


def _finetune(devices: int, data: Path, out: Path) -> list[str]:
    return [
        "finetune", str(data / BASE / "model.pt"), str(data / FACES), "-o", str(out / "run"),
        "-a", "Wearing_Lipstick", "-r", "mouth", *_SMALL, "--epochs", "2", "--patience", "1",
        "--devices", str(devices),
    ]  # fmt: skip


def _experiment(data: Path, out: Path) -> list[str]:
    return [
        "experiment", "figure7", "--data", str(data / FACES), "-o", str(out / "experiments"),
        "--attribute", "Wearing_Lipstick", "--other", "Heavy_Makeup", "--region", "mouth",
        "--elsewhere", "left_eye,right_eye", *_NEW, "--epochs", "1",
    ]  # fmt: skip


_STEPS = (AttributeTask, "training_step")
_RUN = _any("run/last.ckpt", "run/model.pt")
CASES = (
    Case(
        "synth", 1, lambda data, out: ["synth", str(out / FACES), "-n", "16", "--workers", "2"],
        (writer, "render_face"), _any(f"{FACES}/*/*.jpg"),
    ),
    Case(
        "landmarks", 1,
        lambda data, out: ["landmarks", str(data / FACES), "-o", str(out / "l.npz"),
                           "--workers", "2"],
        (_Detector, "__call__"), _any("l.npz", ".l.npz.parts/*.npz"),
    ),
    Case(
        "cache", 1, lambda data, out: ["faults-cache", str(data / FACES)],
        (PreparedFaces, "_decode_at"), _any_decoded,
    ),
    Case("train", 1, partial(_train, 1), _STEPS, _RUN),
    Case("train", 2, partial(_train, 2), _STEPS, _RUN),
    Case("finetune", 1, partial(_finetune, 1), _STEPS, _RUN),
    Case("finetune", 2, partial(_finetune, 2), _STEPS, _RUN),
    Case("experiment", 1, _experiment, _STEPS,
         _any("experiments/**/last.ckpt", "experiments/**/model.pt")),
)  # fmt: skip


def prepare(data: Path, images: int) -> int:
    """The faces and the network that the cases need: drawn and trained in this process."""
    os.environ[VARIABLE] = str(data / "caches")
    torch.set_num_threads(1)
    began = time.monotonic()
    steps: list[list[Any]] = [
        ["synth", data / FACES, "-n", images, "--splits", 0.5, 0.2, 0.3, "--workers", 2],
        ["train", data / FACES, "-o", data / BASE, *_NEW, *_NAMES, "--epochs", 2],
    ]
    for step in steps:
        if code := main([str(word) for word in step]):
            return code
    print(f"prepared in {time.monotonic() - began:.1f} s")
    return 0
