"""A script with a Lightning trainer of its own, as a user writes one for several processes.

Lightning starts the second process by starting the script again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from networks import grids
from process_group import without_dropout
from tiny_faces import MODEL, TinyNet
from torch.utils.data import DataLoader

from fastcam.data.batches import Batch
from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.training import AttributeTask, GuidanceConfig, TrainConfig

NAMES = ["Lips", "Eyes", "Dark"]
# How many images each process has in each batch; in the last one the second has none.
SHARES = ((4, 1), (3, 0))
CONFIG = TrainConfig(
    lr=0.05,
    momentum=0.9,
    clip=0.5,
    guidance=GuidanceConfig((("Lips", "mouth"), ("Eyes", "mouth")), losses=("energy", "iou")),
)


class Shares(LightningDataModule):
    """The same batches in any number of processes, divided among them by the loaders."""

    def train_dataloader(self) -> DataLoader[Batch]:
        generator = torch.Generator().manual_seed(5)
        batches: Any = []
        for shares in SHARES:
            count = sum(shares)
            batch = {
                "image": torch.randn(count, 3, 32, 32, generator=generator),
                "labels": (torch.rand(count, 3, generator=generator) < 0.6).float(),
                "regions": grids(count, 2, 8, 8).float(),
            }
            trainer: Any = self.trainer
            of_each = (count,) if trainer.world_size == 1 else shares
            batches.append({k: t.split(of_each)[trainer.global_rank] for k, t in batch.items()})
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(dict(trainer.logged_metrics))


def fit(**processes: Any) -> dict[str, Any]:
    """What was logged in each step and in the last validation, and the weights at the end."""
    torch.manual_seed(0)
    net: Any = without_dropout(TinyNet(len(NAMES))).float()  # its masks are each process's own
    checkpoint = Checkpoint(net, MODEL, NAMES, Preprocessing(32, "crop"))
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[losses], logger=False, inference_mode=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **processes,
    )  # fmt: skip
    trainer.fit(AttributeTask(checkpoint, CONFIG), Shares())
    valid = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("valid/")}
    return {"rank": trainer.global_rank, "steps": losses.seen, "valid": valid,
            "weights": net.state_dict()}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = fit(strategy="ddp", devices=2, use_distributed_sampler=False)
    torch.save(found, Path(sys.argv[1]) / f"rank{found['rank']}.pt")
