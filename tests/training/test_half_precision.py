"""float16 with scaled losses: what overflows is left out, and only what stays so ends a run.

Lightning has the plugin on the CPU, too, though its Trainer does not offer it there.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from tiny_faces import MODEL

from fastcam.models import Checkpoint, build
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import AttributeTask, GuidanceConfig, TrainConfig, TrainingDiverged

GUIDANCE = GuidanceConfig((("a", "square"),), losses=("energy",))


def task_of(parts: int) -> AttributeTask:
    torch.manual_seed(1)
    model: Any = build(MODEL, 2)
    model.classifier[0].p = 0.0
    checkpoint = Checkpoint(model, MODEL, ["a", "b"], Preprocessing(32))
    return AttributeTask(checkpoint, TrainConfig(accumulate=parts, guidance=GUIDANCE, lr=0.05))


class Watch(Callback):
    """Weights and logged metrics after each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.records: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        flat = torch.cat([p.detach().flatten() for p in pl_module.model.parameters()])
        self.weights.append(flat.clone())
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.records.append({**logged, "step": trainer.global_step})
        pl_module.examine(self.records[-1])


def fitted(parts: int, precision: str, scale: float = 2.0**10) -> Watch:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(6, 3, 32, 32, generator=generator),
        "labels": (torch.rand(6, 2, generator=generator) > 0.4).float(),
        "regions": (torch.rand(6, 1, 8, 8, generator=generator) > 0.6).float(),
    }
    watch = Watch()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    half: Any = MixedPrecision("16-mixed", "cpu", scaler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, callbacks=[watch],
            plugins=[half] if precision == "float16" else [],
        )  # fmt: skip
        trainer.fit(task_of(parts), torch.utils.data.DataLoader([batch] * 5, batch_size=None))
    assert trainer.global_step == 5
    return watch


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_that_overflows_is_left_out(parts: int) -> None:
    """At a scale of 2^22 a float16 gradient overflows; halved a few times it does not."""
    full, half, high = fitted(parts, "float32"), fitted(parts, "float16"), fitted(
        parts, "float16", 2.0**22
    )  # fmt: skip
    start = torch.cat([p.detach().flatten() for p in task_of(parts).model.parameters()])
    moved = float((full.weights[-1] - start).norm())
    assert float((half.weights[-1] - full.weights[-1]).norm()) < 0.1 * moved
    # Clipping sees unscaled gradients.
    for one, other in zip(half.records, full.records, strict=True):
        assert one["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=0.1)
    lost = [not torch.isfinite(torch.tensor(r["train/grad_norm"])) for r in high.records]
    assert lost[0] and torch.equal(high.weights[0], start)
    for number, overflowed in enumerate(lost[1:], 1):
        assert overflowed == torch.equal(high.weights[number], high.weights[number - 1])
    assert high.weights[-1].isfinite().all()


def test_only_what_stays_so_ends_a_run() -> None:
    task: Any = task_of(1)
    record = {"train/grad_norm": float("inf"), "train/loss_a": 0.5, "train/loss_g": 0.5,
              "train/ratio": 1.0, "step": 3.0}  # fmt: skip
    plugin = SimpleNamespace(scaler=object())
    task._trainer = SimpleNamespace(
        precision_plugin=plugin, datamodule=SimpleNamespace(steps=10), max_epochs=1
    )
    for _ in range(29):
        task.examine(record)
    task.examine({**record, "train/grad_norm": 1.0})
    for _ in range(29):
        task.examine(record)
    with pytest.raises(TrainingDiverged, match="the gradient became inf in step 3 of 10"):
        task.examine(record)
    task.examine({**record, "train/grad_norm": 1.0})
    with pytest.raises(TrainingDiverged, match="the Grad-CAM loss became nan in step 3 of 10; "):
        task.examine({**record, "train/loss_g": float("nan")})  # at once: no scale does that
    plugin.scaler = None
    with pytest.raises(TrainingDiverged, match="the gradient became inf"):
        task.examine(record)
