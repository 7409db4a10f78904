"""Training and fine-tuning: results, determinism, control and guidance."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, write_faces
from tiny_runs import run_config, same_weights, weights_of
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastcam.data.batches import Collate, loader
from fastcam.evaluation import evaluate
from fastcam.evaluation.splits import prepare_split
from fastcam.models import load_checkpoint
from fastcam.training import Batches, GuidanceConfig, TrainConfig, TrainingDiverged, train
from fastcam.training.guidance import cell_weights, guided_pairs, warm_sharpness
from fastcam.training.history import read_history
from fastcam.training.inputs import folder_batches, initial_checkpoint, open_data
from fastcam.training.objective import attribute_loss
from fastcam.training.task import AttributeTask

GUIDANCE = GuidanceConfig(
    (("Lips", "mouth"),), losses=("iou",), pull=1.0, sharpness=4.0, sharpness_warmup=True
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 96)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    return train(run_config(data, epochs=25), out).checkpoint


def test_training_learns_and_leaves_a_checkpoint(data: Path, trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.attributes == ["Lips", "Eyes", "Dark"]
    assert (checkpoint.preprocessing.size, checkpoint.model_name) == (32, MODEL)
    assert checkpoint.history[0]["settings"]["epochs"] == 25
    records = read_history(trained.parent / "history.csv")
    losses = [r["train/loss_a"] for r in records if "train/loss_a" in r]
    assert len(losses) == 25 * 5
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert [r["epoch"] for r in records if "valid/loss" in r] == list(range(25))
    assert checkpoint.history[0]["metrics"]["valid/loss"] == records[-1]["valid/loss"]
    assert evaluate(checkpoint, data, attribute="Lips")["all"].accuracy > 0.8
    left = sorted(p.name for p in trained.parent.iterdir())
    assert left == ["history.csv", "model.pt", "result.json", "settings.json"]


class Unsized:
    """A loader that does not say how many batches it has."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def test_few_images_are_passed_over_more_often(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcam.training.run.STEPS", 27)
    config = run_config(data, epochs=None)
    assert config.settings()["epochs"] is None
    few = train(dataclasses.replace(config, limit_train=40, batch_size=16), tmp_path / "few")
    assert few.epochs == 9  # of three steps
    assert train(config, tmp_path / "many").epochs == 8  # of five
    prepared = prepare_split(load_checkpoint(few.checkpoint), data, "train", limit=40)
    loader = DataLoader(prepared, batch_size=20, collate_fn=Collate())
    own = Batches(loader, loader, ATTRIBUTES)
    assert train(dataclasses.replace(config, data=""), tmp_path / "own", data=own).epochs == 14
    own = Batches(Unsized(loader), loader, ATTRIBUTES)
    assert train(dataclasses.replace(config, data=""), tmp_path / "unknown", data=own).epochs == 8


def test_bfloat16_trains_and_guides_in_autocast(
    data: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    step = AttributeTask.training_step

    def watched(self: AttributeTask, batch: Any, index: int) -> Tensor:
        loss = step(self, batch, index)
        seen.append(
            (self.model(self.checkpoint.preprocessing.normalize(batch["image"])).dtype, loss.dtype)
        )
        return loss

    monkeypatch.setattr(AttributeTask, "training_step", watched)
    config = run_config(
        data, start=str(trained), epochs=1, guidance=GUIDANCE, lr=0.01, precision="bfloat16"
    )
    low = train(config, tmp_path / "low").checkpoint
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert {w.dtype for w in weights_of(low).values()} == {torch.float32}
    seen.clear()
    full = train(dataclasses.replace(config, precision="float32"), tmp_path / "full").checkpoint
    assert set(seen) == {(torch.float32, torch.float32)}
    before, one, two = weights_of(trained), weights_of(low), weights_of(full)
    moved = sum(float((two[k] - before[k]).square().sum()) for k in two) ** 0.5
    apart = sum(float((two[k] - one[k]).square().sum()) for k in two) ** 0.5
    assert 0 < apart < 0.5 * moved
    with pytest.raises(ValueError, match="precision: expected one of .* got 'float8'"):
        run_config(data, precision="float8")


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept() -> None:
    code = (
        "import resource, sys, torch\n"
        "from fastcam.training import keep_freed_memory\n"
        "if sys.argv[1] == 'keep':\n"
        "    assert keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10):\n"  # the heap finds its shape
        "    torch.ones(20_000_000)\n"
        "before = faults()\n"
        "for _ in range(4):\n"
        "    torch.ones(20_000_000)\n"
        "print(faults() - before)\n"
    )
    keep, give = (
        int(subprocess.run(
            [sys.executable, "-c", code, word], check=True, capture_output=True, text=True
        ).stdout)
        for word in ("keep", "give")
    )  # fmt: skip
    assert keep < 0.1 * give  # pages of 4 × 80 MB


def test_the_seed_decides_everything(data: Path, tmp_path: Path) -> None:
    runs = [
        train(run_config(data, seed=seed, augment="full"), tmp_path / name).checkpoint
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_tasks_of_a_slurm_job_are_no_processes_of_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"JOB_ID": 1, "JOB_NAME": "train", "NTASKS": 4, "PROCID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    one = train(run_config(data, epochs=1), tmp_path / "a")
    monkeypatch.setenv("SLURM_PROCID", "3")  # each task its own run
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    other = train(run_config(data, epochs=1), tmp_path / "b")
    assert same_weights(one.checkpoint, other.checkpoint)


def test_early_stopping_keeps_the_best_epoch(data: Path, tmp_path: Path) -> None:
    result = train(run_config(data, epochs=40, patience=2, lr=0.3), tmp_path)
    losses = [r["valid/loss"] for r in read_history(result.history) if "valid/loss" in r]
    best = losses.index(min(losses))
    assert result.epochs == len(losses) == best + 3 < 40
    assert result.after["valid/loss"] == losses[best]
    shorter = train(run_config(data, epochs=best + 1, lr=0.3), tmp_path / "shorter")
    assert same_weights(result.checkpoint, shorter.checkpoint)


def test_a_control_is_the_same_run_without_guidance(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    tune = run_config(data, start=str(trained), epochs=1, seed=5)
    off = dataclasses.replace(GUIDANCE, pull=0.0, recalibrate=False)
    plain = train(tune, tmp_path / "plain")
    control = train(dataclasses.replace(tune, guidance=off), tmp_path / "control")
    guided = train(dataclasses.replace(tune, guidance=GUIDANCE, clip=5.0), tmp_path / "guided")
    assert same_weights(plain.checkpoint, control.checkpoint)
    assert not same_weights(control.checkpoint, guided.checkpoint)
    names = set().union(*read_history(control.history))
    assert {"valid/energy", "valid/iou", "valid/dead", "valid/accuracy_target"} <= names
    assert "train/loss_g" not in names
    assert {"train/loss_g", "train/dead", "train/sharpness", "train/ratio"} <= set().union(
        *read_history(guided.history)
    )
    # The first batch is the same for both: order, augmentation and dropout do not depend on it.
    steps = [[r for r in read_history(x.history) if "train/loss_a" in r] for x in (control, guided)]
    first = [records[0]["train/loss_a"] for records in steps]
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    sharpness = [r["train/sharpness"] for r in read_history(guided.history) if "train/loss" in r]
    assert sharpness[0] == 1.0
    assert sharpness[-1] == 4.0
    assert sharpness == sorted(sharpness)


def test_each_step_drops_out_and_each_epoch_augments_anew(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int, Tensor]] = []
    plain = AttributeTask.training_step

    def step(self: AttributeTask, batch: Any, batch_idx: int) -> Any:
        drops = self.model.classifier[0].training  # type: ignore[index,union-attr]
        seen.append((drops, torch.initial_seed(), batch["image"][batch["index"].argsort()]))
        return plain(self, batch, batch_idx)

    valid, judged = prepare_split(load_checkpoint(trained), data, "valid"), []
    plain_validation = AttributeTask.validation_step

    def validation(self: AttributeTask, batch: Any, batch_idx: int) -> None:
        assert not self.model.classifier[0].training  # type: ignore[index,union-attr]
        for image, index in zip(batch["image"], batch["index"], strict=True):
            assert torch.equal(image, valid[index]["image"])
            judged.append(index)
        plain_validation(self, batch, batch_idx)

    monkeypatch.setattr(AttributeTask, "training_step", step)
    monkeypatch.setattr(AttributeTask, "validation_step", validation)
    # validated before the first step, too
    guidance = dataclasses.replace(GUIDANCE, recalibrate=False)
    tune = run_config(data, start=str(trained), epochs=3, batch_size=48, augment="flip")
    train(dataclasses.replace(tune, guidance=guidance, clip=5.0), tmp_path)
    drops, seeds, images = zip(*seen, strict=True)
    assert all(drops) and len({*seeds}) == 3
    assert len(judged) == 4 * len(valid)
    one, two, three = images
    assert not torch.equal(one, two) and not torch.equal(one, three) and not torch.equal(two, three)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_is_clipped_as_told(
    data: Path, trained: Path, tmp_path: Path, accumulate: int
) -> None:
    one = {"epochs": 1, "limit_train": 10, "start": str(trained), "accumulate": accumulate}
    before, moved, norms = weights_of(trained), {}, {}
    for clip in (0.0, 1e-4, 1e3):
        run = train(run_config(data, clip=clip, **one), tmp_path / str(clip))
        after = weights_of(run.checkpoint)
        moved[clip] = float(torch.cat([(after[k] - before[k]).flatten() for k in after]).norm())
        (norms[clip],) = (
            r["train/grad_norm"] for r in read_history(run.history) if "train/lr" in r
        )
    assert norms[0.0] == norms[1e-4] == norms[1e3] > 1e-3  # before it is clipped
    lr = run_config(data).lr
    wanted = {0.0: lr * norms[0.0], 1e-4: lr * 1e-4, 1e3: lr * norms[0.0]}
    assert moved == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("pull", [None, 0.0, 1.0])
def test_the_labels_weigh_as_told(data: Path, tmp_path: Path, pull: float | None) -> None:
    guidance = pull if pull is None else dataclasses.replace(GUIDANCE, pull=pull, recalibrate=False)
    run = train(
        run_config(data, epochs=1, limit_train=20, w_a=3.0, guidance=guidance),
        tmp_path,
    )
    steps = [r for r in read_history(run.history) if "train/loss" in r]
    for step in steps:
        guided = (pull or 0) * step.get("train/ratio", 0) * step.get("train/loss_g", 0)
        assert step["train/loss"] == pytest.approx(3 * step["train/loss_a"] + guided, rel=1e-5)
    assert not pull or any(step["train/ratio"] > 0 for step in steps)


def test_guidance_moves_the_attention(data: Path, trained: Path, tmp_path: Path) -> None:
    # At the rate of 0.05 it is luck whether the few guided maps survive.
    tune = run_config(data, start=str(trained), epochs=12, lr=0.015, clip=5.0, augment="none")
    energy = {}
    for name, pull in (("control", 0.0), ("guided", 2.0)):  # uncut: a few steps have to suffice
        guidance = dataclasses.replace(
            GUIDANCE, targets=(("Lips", "left_eye"),), pull=pull, max_pair_pull=0.0
        )
        run = train(dataclasses.replace(tune, guidance=guidance), tmp_path / name)
        found = evaluate(load_checkpoint(run.checkpoint), data, attribute="Lips", region="left_eye")
        energy[name] = found["a"].energy
    assert energy["guided"] > 2 * energy["control"]


def test_the_learning_rate_falls_as_a_cosine(data: Path, tmp_path: Path) -> None:
    run = train(run_config(data, schedule="cosine"), tmp_path / "cosine")
    rates = [r["train/lr"] for r in read_history(run.history) if "train/lr" in r]
    expected = [0.05 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)]
    assert rates == pytest.approx(expected, rel=1e-5)
    steady = train(run_config(data), tmp_path / "steady")
    rates = [r["train/lr"] for r in read_history(steady.history) if "train/lr" in r]
    assert rates == pytest.approx([0.05] * 15)


def test_two_targets_and_all_images(data: Path, trained: Path, tmp_path: Path) -> None:
    guidance = dataclasses.replace(
        GUIDANCE, targets=(("Lips", "mouth"), ("Eyes", "left_eye,right_eye")), guide="all"
    )
    tune = run_config(data, start=str(trained), epochs=1, clip=5.0, guidance=guidance)
    result = train(tune, tmp_path)
    assert result.landmark_sources == {"ground_truth": 48}
    few = train(dataclasses.replace(tune, limit_train=10), tmp_path / "few")
    assert few.landmark_sources == {"ground_truth": 10}
    plain = train(run_config(data, epochs=1), tmp_path / "plain")  # draws no region
    assert plain.landmark_sources == {}
    assert load_checkpoint(result.checkpoint).history[1]["settings"]["guidance"]["targets"] == [
        ["Lips", "mouth"],
        ["Eyes", "left_eye,right_eye"],
    ]


def test_training_on_chosen_attributes(data: Path, tmp_path: Path) -> None:
    first = train(run_config(data, attributes=("Eyes", "Lips"), epochs=1), tmp_path / "first")
    assert load_checkpoint(first.checkpoint).attributes == ["Eyes", "Lips"]
    tune = run_config(data, start=str(first.checkpoint), epochs=1, guidance=GUIDANCE, clip=5.0)
    tuned = load_checkpoint(train(tune, tmp_path / "tuned").checkpoint)
    assert tuned.attributes == ["Eyes", "Lips"]
    found = evaluate(tuned, data, attribute="Lips", other="Eyes", region="mouth", split="all")
    assert found["all"].images == 96
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(run_config(data, attributes=("Nose",)), tmp_path / "wrong")
    with pytest.raises(ValueError, match="attributes: expected at least one"):
        run_config(data, attributes=())


def test_a_run_begins_as_its_settings_say(data: Path) -> None:
    guidance = dataclasses.replace(GUIDANCE, grid="binary")
    limits: dict[str, Any] = {"limit_train": 9, "limit_valid": 5, "batch_size": 4}
    config = run_config(data, size=24, fit="face", guidance=guidance, **limits)
    names = ["Dark", "Lips"]
    checkpoint = initial_checkpoint(config, names, exclusive=True)
    assert (checkpoint.preprocessing.size, checkpoint.preprocessing.fit) == (24, "face")
    assert (checkpoint.attributes, checkpoint.exclusive) == (names, True)
    batches = folder_batches(config, initial_checkpoint(config, [*ATTRIBUTES]), open_data(config))
    assert (len(batches.train), len(batches.valid)) == (9, 5)
    grids = {}
    for layer in (None, "features.0"):
        of = dataclasses.replace(config, guidance=dataclasses.replace(guidance, target_layer=layer))
        made = folder_batches(of, initial_checkpoint(of, [*ATTRIBUTES]), open_data(of))
        grids[layer] = made.collate.grid_size, made.valid_collate.grid_size
    assert grids == {None: ((6, 6), (6, 6)), "features.0": ((12, 12), (6, 6))}
    assert [batches.images_in(number) for number in range(batches.steps)] == [4, 4, 1]
    for images, collate in (
        (batches.train, batches.collate),
        (batches.valid, batches.valid_collate),
    ):
        (batch,) = loader(images, len(images), collate)
        regions = collate.finish(batch)["regions"]
        assert regions.any() and bool(((regions == 0) | (regions == 1)).all())


def test_pieces_of_guidance() -> None:
    regions = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    torch.testing.assert_close(cell_weights(regions, 3.0), torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert guided_pairs(labels, "positives").tolist() == [[True, False], [False, True]]
    assert guided_pairs(labels, "all").all()
    assert [warm_sharpness(8.0, p) for p in (-1, 0, 0.5, 1, 2)] == [1, 1, 4.5, 8, 8]


def test_a_diverging_run_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"diverged: the .* became .* in step \d+ of 40;"):
        train(run_config(data, lr=1e6, epochs=8, clip=0.0), tmp_path)
    assert not (tmp_path / "model.pt").exists()


def test_settings_that_do_not_fit(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        train(run_config(data, model="nonet"), tmp_path / "a")
    wrong = dataclasses.replace(GUIDANCE, targets=(("Nose", "mouth"),))
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(run_config(data, start=str(trained), guidance=wrong), tmp_path / "b")
    wrong = dataclasses.replace(GUIDANCE, targets=(("Lips", "beard"),))
    with pytest.raises(ValueError, match="region has no part called 'beard'"):
        train(run_config(data, start=str(trained), guidance=wrong), tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        train(run_config(tmp_path / "nowhere"), tmp_path / "c")
    other = write_faces(tmp_path / "other", 16)
    table = other / "list_attr_celeba.txt"
    table.write_text(table.read_text().replace("Dark", "Bright"))
    with pytest.raises(ValueError, match="trained on other attributes"):
        train(run_config(other, start=str(trained)), tmp_path / "d")


def test_chosen_attributes_are_learned_and_kept_in_fine_tuning(data: Path, tmp_path: Path) -> None:
    names = (ATTRIBUTES[1], ATTRIBUTES[0])
    first = train(run_config(data, attributes=names, epochs=1), tmp_path / "first")
    assert load_checkpoint(first.checkpoint).attributes == list(names)
    train(run_config(data, attributes=names, epochs=1), tmp_path / "first")  # the same run: kept
    second = train(run_config(data, start=str(first.checkpoint), epochs=1), tmp_path / "second")
    assert load_checkpoint(second.checkpoint).attributes == list(names)
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        train(run_config(data, attributes=("Nose",)), tmp_path / "third")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": ()}, "attributes: expected at least one"),
        ({"lr": 0.0}, "lr: expected a number above 0 and finite, got 0.0"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"momentum": 1.0}, "momentum: expected a number in"),
        ({"clip": -1.0}, "clip: expected a number of at least 0"),
        ({"augment": "mirror"}, "augment: expected one of"),
        ({"schedule": "step"}, "schedule: expected one of"),
        ({"fit": "pad"}, "fit: expected one of"),
        ({"save_minutes": -1}, "save_minutes: expected a number of at least 0"),
        ({"attributes": ("Lips", "Lips")}, "attributes: expected no name twice"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig("faces", **changes)


def test_a_fixed_weight_is_the_paper_s_equation() -> None:
    """No pair's gradient is cut beside ``w_g`` unless asked; beside ``pull`` it is unless not."""
    targets = (("Lips", "mouth"),)
    assert GuidanceConfig(targets, w_g=1.0).max_pair_pull == 0
    assert GuidanceConfig(targets, w_g=1.0, max_pair_pull=2.0).max_pair_pull == 2
    assert GuidanceConfig(targets, pull=0.0).max_pair_pull == 1  # a control differs in pull alone
    assert GuidanceConfig(targets, max_pair_pull=0.0).max_pair_pull == 0


@pytest.mark.parametrize("changes", [{"epochs": 1.5}, {"seed": "a"}, {"lr": "a"}, {"size": True}])
def test_settings_of_another_type_are_named(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(
        TypeError, match=f"{name}: expected a .*number .* got ({value!r}|{type(value).__name__})$"
    ):
        TrainConfig("faces", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ()}, "at least one"),
        ({"w_g": -1.0}, "w_g: expected a number of at least 0"),
        ({"pull": -1.0}, "pull: expected a number of at least 0"),
        ({"pull": 1.0, "w_g": 1.0}, "give pull or w_g, not both"),
        ({"max_pair_pull": -1.0}, "max_pair_pull: expected a number of at least 0"),
        ({"guide": "none"}, "guide: expected one of"),
        ({"threshold": 1.0}, "threshold: expected a number in"),
        ({"sharpness": 0.5}, "sharpness: expected a number of at least 1"),
        ({"region_weight": 0.0}, "region_weight: expected a number above 0"),
        ({"w_g": math.nan}, "w_g: expected a number of at least 0 and finite"),
        ({"sharpness": math.inf}, "sharpness: expected a number of at least 1 and finite"),
        ({"binarize": "soft"}, "binarize: expected one of"),
        ({"weight_grad": "half"}, "weight_grad: expected one of"),
        ({"head": "open"}, "head: expected one of"),
        ({"grid": "round"}, "grid: expected one of"),
    ],
)
def test_wrong_guidance_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**{"targets": (("Lips", "mouth"),), **changes})


class Terms(NamedTuple):
    total: Tensor
    smoothed: Tensor


class Smoothing(nn.Module):
    """Logs a buffer that each step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.register_buffer("smoothed", torch.zeros(()))

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Terms]:
        self.smoothed += 1
        logits = self.linear(images.mean((1, 2, 3))[:, None])
        return logits, Terms((logits - labels).square().mean(), self.smoothed)


def test_what_a_step_logs_is_of_that_step() -> None:
    """On a GPU the numbers of many steps are read at once."""
    model, images = Smoothing(), torch.zeros(2, 3, 4, 4)
    logged = [attribute_loss(model, images, torch.zeros(2, 1)).parts for _ in range(3)]
    assert [float(parts["smoothed"]) for parts in logged] == [1, 2, 3]
