"""A batch in parts is the batch: in gradients, ratios, history and weights, wherever it stops."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from device_worker import NormedNet
from tiny_faces import write_faces
from tiny_masks import CLASSES, write_images
from tiny_runs import assert_same, run_config, same_weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_again

from fastcam import models
from fastcam.data.layout_finder import find_layout
from fastcam.models import Checkpoint, build
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import (
    AttributeTask,
    Batches,
    GroupDRO,
    GuidanceConfig,
    TrainConfig,
    TrainResult,
    train,
)
from fastcam.training.accumulate import Accumulation, buffers_kept, split
from fastcam.training.history import read_history

GUIDANCE = GuidanceConfig(
    (("Lips", "mouth"), ("Eyes", "left_eye,right_eye")),
    losses=("iou", "energy=0.5", "outside=0.3"),
    sharpness=4.0,
)
# 45 training images: of three batches the last has one image, and so one part of four.
SETTINGS: dict[str, Any] = {
    "batch_size": 22,
    "clip": 5.0,
    "patience": 2,
    "augment": "full",
    "schedule": "cosine",
    "warmup": 0.3,
    "without": "nose",
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 90)


@pytest.fixture(scope="module")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    base = train(run_config(data, epochs=2), tmp_path_factory.mktemp("base")).checkpoint
    return run_config(data, start=str(base), guidance=GUIDANCE, **SETTINGS)


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(config, tmp_path_factory.mktemp("whole"))


def parted(config: TrainConfig, parts: int, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, accumulate=parts, **changes)


def test_a_guided_fine_tuning_is_that_of_whole_batches(
    config: TrainConfig, whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, several losses, clipping, warm-up and the best epoch kept."""
    sizes: list[int] = []
    losses = AttributeTask._losses

    def counted(self: AttributeTask, batch: Any, *part: Any) -> Any:
        sizes.append(len(batch["labels"]))
        return losses(self, batch, *part)

    monkeypatch.setattr(AttributeTask, "_losses", counted)
    assert_same(train(parted(config, 4), tmp_path), whole)
    assert max(sizes) == 6 and sizes.count(1) == 2 * 3  # in the first epochs Balance measures
    records = [r for r in read_history(whole.history) if "train/ratio" in r]
    assert len(records) == 9 and all(r["train/ratio"] > 0 for r in records)
    assert sum(r["train/loss_g_outside"] > 0 for r in records) >= 6  # the last may guide none
    monkeypatch.undo()
    assert train(config, tmp_path).kept  # whatever the parts


def test_of_several_processes_too(config: TrainConfig, whole: TrainResult, tmp_path: Path) -> None:
    """Some parts, and the second process's share of the last batch, are empty."""
    assert_same(train(parted(config, 3, devices=2), tmp_path), whole)


@pytest.mark.parametrize(("first", "then"), [(4, 1), (1, 3), (4, 4)])
def test_a_run_killed_within_a_step_goes_on_in_other_parts(
    config: TrainConfig,
    whole: TrainResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
    then: int,
) -> None:
    losses = AttributeTask._losses

    def dies(self: AttributeTask, batch: Any, *part: Any) -> Any:
        found = losses(self, batch, *part)
        self.parts_seen = getattr(self, "parts_seen", 0) + (self.trainer.global_step == 4)
        if self.parts_seen == min(first, 3):
            raise Killed
        return found

    monkeypatch.setattr(AttributeTask, "_losses", dies)
    with pytest.raises(Killed):
        train(parted(config, first, save_minutes=0.0), tmp_path)
    assert (tmp_path / "last.ckpt").is_file()
    monkeypatch.undo()
    steps: list[int] = []
    step = AttributeTask.training_step

    def counts(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor | None:
        steps.append(self.trainer.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", counts)
    assert_same(train(parted(config, then, save_minutes=0.0), tmp_path), whole)
    assert steps == list(range(4, 9))


def test_channels_last_is_the_same_run(
    config: TrainConfig, whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    losses = AttributeTask._losses

    def seen(self: AttributeTask, batch: Any, *part: Any) -> Any:
        orders.append(self._inputs(batch)[0].is_contiguous(memory_format=torch.channels_last))
        return losses(self, batch, *part)

    monkeypatch.setattr(AttributeTask, "_losses", seen)
    run = train(parted(config, 2, channels_last=True), tmp_path)
    assert all(orders)
    assert_same(run, whole)
    assert all(w.is_contiguous() for w in torch.load(run.checkpoint)["state_dict"].values())


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_their_state_is_that_of_a_killed_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("timm")
    large = parted(
        config, 2, optimizer=name, lr=5.0 if name == "lars" else 0.01, weight_decay=1e-3,
        lr_batch=11, save_minutes=0.0,
    )  # fmt: skip
    one = train(large, tmp_path / "one")
    rates = [r["train/lr"] for r in read_history(one.history) if "train/lr" in r]
    assert max(rates) == pytest.approx(2 * large.lr) and rates.index(max(rates)) == 3
    step = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor | None:
        if self.trainer.global_step == 5:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", dies)
    with pytest.raises(Killed):
        train(large, tmp_path / "killed")
    monkeypatch.undo()
    again = train(large, tmp_path / "killed")
    assert read_history(again.history) == read_history(one.history)
    assert same_weights(again.checkpoint, one.checkpoint)


@pytest.mark.parametrize("parts", [3, 100])
def test_group_dro_moves_its_weights_once(config: TrainConfig, tmp_path: Path, parts: int) -> None:
    control = dataclasses.replace(GUIDANCE, pull=0.0)
    dro = dataclasses.replace(
        config, guidance=control, group_dro="Eyes", group_step=1.0, without="nothing", epochs=1
    )
    one = train(dro, tmp_path / "one")
    assert_same(train(parted(dro, parts), tmp_path / "parts"), one)


def test_classes_and_masks(tmp_path: Path) -> None:
    """Masks are moved with their images, part by part; a fixed weight is measured, too."""
    root = write_images(tmp_path / "images", 60, masks="folders")
    find_layout(root, classes="kind").save(root)
    base = run_config(root, epochs=1, fit="stretch", augment="full", batch_size=11)
    start = train(base, tmp_path / "start").checkpoint
    guidance = GuidanceConfig(
        (("own_class", "square"), (CLASSES[0], "square")), w_g=0.005, guide="all", sharpness=4.0
    )
    config = dataclasses.replace(base, start=str(start), guidance=guidance, clip=5.0)
    one = train(config, tmp_path / "one")
    assert_same(train(parted(config, 4), tmp_path / "parts"), one)


def test_batches_of_ones_own_and_another_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = [
        {"image": torch.randn(n, 3, 32, 32), "labels": (torch.rand(n, 2) > 0.5).float(),
         "regions": (torch.rand(n, 16, 16) > 0.8)}
        for n in (9, 2)
    ]  # fmt: skip
    batches: Any = Batches(made, made, ["a", "b"])
    guidance = GuidanceConfig((("a", "square"),), recalibrate=False)
    config = TrainConfig(
        model="tiny", size=32, epochs=3, patience=0, lr=0.05, guidance=guidance, device="cpu"
    )
    results = [
        train(parted(config, parts), tmp_path / str(parts), data=batches, loss=squares)
        for parts in (1, 4)
    ]
    assert_same(results[1], results[0])


def squares(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - labels).square().mean()


class Ranking(torch.nn.Module):
    """No mean over images: it compares each with the others, in training and in one process."""

    sync = "global"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        apart = logits[:, None] - logits[None]
        wanted = labels[:, None] - labels[None]
        return (apart - wanted).square().mean()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["ranking", "group_dro"])
def test_a_loss_that_is_no_mean_is_that_of_all_images(kind: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    checkpoint = Checkpoint(build("tiny", 3), "tiny", ["a", "b", "c"], Preprocessing(32))
    images, labels = torch.randn(7, 3, 32, 32), (torch.rand(7, 3) > 0.5).float()
    model = checkpoint.model.eval()  # without dropout
    found = []
    for parts in (1, 3):
        loss: Any = Ranking() if kind == "ranking" else GroupDRO(["a", "b", "c"], "a", "b", 1.0)
        task = AttributeTask(checkpoint, TrainConfig(accumulate=parts), loss=loss)
        task.manual_backward = lambda value: value.backward()  # type: ignore[method-assign]
        task._trainer = _Single()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            if task.accumulation is None:
                value = loss(model(images), labels)
                value.backward()
            else:
                batch: Any = {"image": images, "labels": labels}
                value = task.accumulation.backward(task, batch, task._losses)["train/loss"]
        found.append((value.detach(), [p.grad for p in model.parameters()]))
        if kind == "group_dro":
            found[-1] = (*found[-1], loss.weights)
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    if precision == torch.bfloat16:
        tolerance = {"rtol": 0.05, "atol": 0.01}
    torch.testing.assert_close(found[1], found[0], **tolerance)


class _Single:
    """What a module asks of the trainer of one process."""

    strategy = None
    global_step = 0
    world_size = 1
    global_rank = 0
    accumulate_grad_batches = 1


@pytest.mark.parametrize("dro", [None, "Eyes"])
def test_batch_norm_is_told_of_and_keeps_the_means_of_one_pass(
    data: Path, tmp_path: Path, dro: str | None
) -> None:
    models.register("normed_parts", models.ModelSpec(NormedNet, "features.2"))
    pull = 1.0 if dro is None else 0.0
    guidance = GuidanceConfig((("Lips", "mouth"),), pull=pull, recalibrate=False)
    config = run_config(
        data, model="normed_parts", epochs=1, batch_size=45, guidance=guidance, group_dro=dro
    )
    with pytest.warns(UserWarning, match=r"accumulate: batch norm \('features.1' .* each part's"):
        run = train(parted(config, 3), tmp_path)
    state = models.load_checkpoint(run.checkpoint).model.state_dict()
    assert state["features.1.num_batches_tracked"] == 3  # not those ahead, which measure


def test_a_forward_ahead_leaves_no_trace() -> None:
    net = NormedNet(2)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with buffers_kept(net):
        net(torch.randn(4, 3, 32, 32))
        assert not torch.equal(net.features[1].running_mean, before["features.1.running_mean"])  # type: ignore[arg-type]
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name])


def test_parts_are_the_batch() -> None:
    batch: Any = {"image": torch.arange(7), "labels": torch.arange(7)[:, None]}
    parts: Any = split(batch, 3)
    assert [part["image"].tolist() for part in parts] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(part["labels"]) for part in split(batch, 100)] == [1] * 7
    empty: Any = {"image": torch.zeros(0, 3), "labels": torch.zeros(0, 2)}
    assert [len(part["labels"]) for part in split(empty, 4)] == [0]


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accumulate: expected a whole number of at least 1"):
        run_config(data, accumulate=0)
    with pytest.raises(ValueError, match="precision: float16 needs a GPU, got a run on the CPU"):
        train(run_config(data, precision="float16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class _Recomputing(nn.Module):
    """A network whose first linear layers are run once more in the backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.model.features(images).flatten(1)  # type: ignore[operator]
        return run_again(self.model.classifier, hidden, use_reentrant=False)


@pytest.mark.parametrize("recomputing", [False, True])
def test_a_trainer_of_ones_own_takes_whole_batches_in_parts(recomputing: bool) -> None:
    """With dropout, whose mask is that of the whole batch."""
    from lightning.pytorch import Trainer

    torch.manual_seed(0)
    batch = {"image": torch.randn(6, 3, 32, 32), "labels": torch.ones(6, 2)}
    weights = []
    for parts in (1, 3):
        torch.manual_seed(1)
        model = build("tiny", 2)
        shown = _Recomputing(model) if recomputing else model
        checkpoint = Checkpoint(shown, "tiny", ["a", "b"], Preprocessing(32))
        task = AttributeTask(checkpoint, TrainConfig(accumulate=parts, schedule="cosine"))
        assert isinstance(task.accumulation, Accumulation) == (parts > 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
                enable_checkpointing=False, enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(task, torch.utils.data.DataLoader([batch], batch_size=None))
        assert trainer.global_step == 3
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[1], weights[0])
