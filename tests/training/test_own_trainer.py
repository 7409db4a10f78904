"""``AttributeTask`` in a Lightning trainer of one's own, over two processes, is that in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tiny_faces import MODEL, TinyNet
from trainer_worker import CONFIG, NAMES, SHARES, Shares, fit

from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.training import AttributeTask, TrainConfig


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def test_a_validation_in_inference_mode_is_that_without() -> None:
    """Lightning's default, with the maps of the guidance; twice, and before a training."""
    torch.manual_seed(0)
    checkpoint = Checkpoint(TinyNet(len(NAMES)), MODEL, NAMES, Preprocessing(32, "crop"))
    task = AttributeTask(checkpoint, CONFIG)
    plain = trainer(inference_mode=False).validate(task, Shares(), verbose=False)
    assert {"valid/energy", "valid/iou", "valid/dead"} <= plain[0].keys()
    for _ in range(2):
        assert trainer().validate(task, Shares(), verbose=False) == plain
    training = trainer()
    training.fit(task, Shares())
    fitted = {k: v for k, v in training.callback_metrics.items() if k.startswith("valid/")}
    assert fitted.keys() == plain[0].keys()
    assert trainer().validate(task, Shares(), verbose=False) == [fitted]


class Drawing(torch.utils.data.Dataset):
    """Images drawn when they are asked for."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.randn(3, 32, 32), "labels": torch.ones(len(NAMES))}


def test_the_parts_of_a_step_draw_for_themselves() -> None:
    seen: list[torch.Tensor] = []

    class Seeing(AttributeTask):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch["image"].clone())
            return super().training_step(batch, batch_idx)

    checkpoint = Checkpoint(TinyNet(len(NAMES)), MODEL, NAMES, Preprocessing(32, "crop"))
    task = Seeing(checkpoint, TrainConfig())
    loader = torch.utils.data.DataLoader(Drawing(), batch_size=1)
    trainer(accumulate_grad_batches=4, limit_val_batches=0).fit(task, loader)
    assert len(seen) == 8
    assert len({tuple(image.flatten()[:9].tolist()) for image in seen}) == 8


def test_the_trainer_s_clipping_is_refused_beside_the_task_s() -> None:
    checkpoint = Checkpoint(TinyNet(len(NAMES)), MODEL, NAMES, Preprocessing(32, "crop"))
    with pytest.raises(ValueError, match=r"gradient_clip_val: expected None .*, got 0\.5"):
        trainer(gradient_clip_val=0.5).fit(AttributeTask(checkpoint, CONFIG), Shares())


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
def test_a_trainer_of_one_s_own_over_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Uneven shares, and one without an image: losses, validation and weights at the end."""
    worker = Path(__file__).parents[1] / "support" / "trainer_worker.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(worker), str(tmp_path)],
        env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate()
    finally:
        with suppress(ProcessLookupError):  # the process that Lightning started, too
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    wanted = fit(devices=1)
    assert len(wanted["steps"]) == 2 * len(SHARES)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for name in ("steps", "valid", "weights"):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
