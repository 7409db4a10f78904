"""What processes of the tests of several devices run: losses that end one, and whole scripts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_faces import TinyNet
from torch import Tensor, nn
from torch.nn import functional as nnf


def deadly_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Its second process is killed, as by a system that is short of memory."""
    if os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return nnf.binary_cross_entropy_with_logits(logits, labels)


def wrong_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """It fails in the second process."""
    if os.environ.get("RANK") == "1":
        raise ValueError("no such loss")
    return nnf.binary_cross_entropy_with_logits(logits, labels)


def failing_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """It fails in the first process."""
    if os.environ.get("RANK") == "0":
        raise RuntimeError("out of order")
    return nnf.binary_cross_entropy_with_logits(logits, labels)


_calls: list[int] = []


def nan_once(logits: Tensor, labels: Tensor) -> Tensor:
    """NaN in the second process's second call."""
    _calls.append(1)
    value = nnf.binary_cross_entropy_with_logits(logits, labels)
    bad = os.environ.get("RANK") == "1" and len(_calls) == 2
    return value * float("nan") if bad else value


def _mark_the_end() -> None:
    """An ending interpreter waits for this thread, which waits for the main one."""
    threading.main_thread().join()
    Path(os.environ["FASTCAM_TEST_ENDS"]).touch()


def ending_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The second process marks the end of its interpreter by the file ``FASTCAM_TEST_ENDS``."""
    if os.environ.get("RANK") == "1" and not _calls:
        _calls.append(1)
        threading.Thread(target=_mark_the_end).start()
    return nnf.binary_cross_entropy_with_logits(logits, labels)


class MortalNet(TinyNet):
    """Its second process is killed once the file that ``FASTCAM_TEST_DIES`` names is there."""

    def forward(self, images: Tensor) -> Tensor:
        marked = os.environ.get("FASTCAM_TEST_DIES", "")
        if os.environ.get("RANK") == "1" and os.path.exists(marked):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class LateNet(TinyNet):
    """Its second process comes late to the end of the training, and notes what it reads there."""

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        if self._second():
            time.sleep(1)
        return super().named_buffers(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self._second():
            Path(os.environ["FASTCAM_TEST_LATE"]).with_name("read").touch()
        super()._load_from_state_dict(*args, **kwargs)

    def _second(self) -> bool:
        best = os.environ.get("FASTCAM_TEST_LATE", "")
        return os.environ.get("RANK") == "1" and os.path.exists(best)


class NormedNet(nn.Module):
    """With batch norm, and no head to speak of."""

    def __init__(self, num_attributes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Linear(8, num_attributes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def validate_alone(rank: int, folder: str) -> None:
    """The first of two processes validates, in a trainer of its own; the other one waits."""
    from lightning.pytorch import Trainer

    from fastcam.models.checkpoint import Checkpoint, Preprocessing
    from fastcam.training import AttributeTask, TrainConfig

    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    if rank == 0:
        torch.manual_seed(0)
        checkpoint = Checkpoint(TinyNet(2), "tiny", ["a", "b"], Preprocessing(32, "crop"))
        task = AttributeTask(checkpoint, TrainConfig())
        batch = {"image": torch.randn(6, 3, 32, 32), "labels": torch.ones(6, 2)}
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        loader = torch.utils.data.DataLoader([batch], batch_size=None)
        found = trainer.validate(task, loader, verbose=False)[0]
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


def main(data: str, out: str) -> None:
    """A run as torchrun starts it, and what a second call says of it."""
    from tiny_runs import run_config

    from fastcam.training import train

    config = run_config(Path(data), epochs=1, batch_size=22, nodes=2)
    result = train(config, out)
    again = train(config, out)
    print(f"rank {os.environ['RANK']}: {result.epochs} {again.kept}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
