"""Guidance as the command line does it: safe by default, and it says what it did."""

from __future__ import annotations

import dataclasses
import json
import math
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_faces import MODEL, write_faces
from tiny_nets import NETS
from tiny_runs import same_weights
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastcam
from fastcam import ActivationTap, IoUCamLoss, cli
from fastcam.models import (
    Checkpoint,
    ModelSpec,
    build,
    load_checkpoint,
    model_spec,
    save_checkpoint,
)
from fastcam.models.checkpoint import Preprocessing
from fastcam.training import (
    GuidanceConfig,
    TrainConfig,
    TrainingDiverged,
    history,
    run,
    summary,
    task,
    train,
)
from fastcam.training.guidance import Guidance
from fastcam.training.history import History, read_history

MOUTH = GuidanceConfig((("Lips", "mouth"),), losses=("iou",), pull=1.0)
SMALL: dict[str, Any] = {"batch_size": 10, "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 48)


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig(str(data), model=MODEL, size=32, epochs=6, patience=0, lr=0.05, **SMALL)
    return train(config, tmp_path_factory.mktemp("start")).checkpoint


def guidance_of(config: GuidanceConfig) -> tuple[Guidance, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = build(MODEL, 3)
    images = torch.randn(6, 3, 32, 32)
    labels = (torch.arange(18).view(6, 3) % 2).float()
    regions = torch.zeros(6, 1, 8, 8)
    regions[:, :, 5:7, 2:6] = 1
    return (
        Guidance(config, model, model_spec(MODEL), ["Lips", "Eyes", "Dark"]),
        images,
        labels,
        regions,
    )


def test_the_total_is_the_labels_and_the_balanced_guidance() -> None:
    guidance, *batch = guidance_of(dataclasses.replace(MOUTH, pull=0.5))
    attributes, term = guidance(*batch, w_a=2.0)
    wanted = 2 * attributes.loss + 0.5 * term.ratios["iou"] * term.losses["iou"]
    torch.testing.assert_close(term.total, wanted)
    assert term.ratios["iou"] > 0
    assert not term.losses["iou"].requires_grad


def test_a_fixed_weight_is_that_of_the_paper_and_warns_where_it_is_heavy() -> None:
    guidance, *batch = guidance_of(GuidanceConfig(MOUTH.targets, w_g=1e-9))
    attributes, term = guidance(*batch)
    torch.testing.assert_close(term.total, attributes.loss + 1e-9 * term.losses["iou"])
    heavy = 11 * float(term.ratios["iou"])
    guidance, *batch = guidance_of(GuidanceConfig(MOUTH.targets, w_g=heavy))
    _, term = guidance(*batch)
    with pytest.warns(UserWarning, match=r"draws 11 times as hard .* use pull"):
        guidance.examine(float(term.ratios["iou"]))
    light, *_ = guidance_of(GuidanceConfig(MOUTH.targets, w_g=9.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guidance.examine(float(term.ratios["iou"]))  # once
        light.examine(1.0)  # up to ten times as hard is not told of
    torch.testing.assert_close(term.total, attributes.loss + heavy * term.losses["iou"])


def test_each_of_several_losses_has_its_pull() -> None:
    guidance, *batch = guidance_of(dataclasses.replace(MOUTH, losses=("iou", "energy=0.3")))
    attributes, term = guidance(*batch)
    wanted = attributes.loss
    for name, pull in {"iou": 1.0, "energy": 0.3}.items():
        assert term.ratios[name] > 0
        wanted = wanted + pull * term.ratios[name] * term.losses[name]
    torch.testing.assert_close(term.total, wanted)
    assert set(term.record()) == {"dead", "loss_g", "ratio", "loss_g_energy", "ratio_energy"}


def test_the_settings_are_those_of_the_losses() -> None:
    config = GuidanceConfig(
        MOUTH.targets, losses=("iou", "energy"), region_weight=5.0, threshold=0.3, sharpness=4.0,
        binarize="sigmoid", weight_grad="detach", head="autograd", max_pair_pull=0.2,
        sharpness_warmup=False,
    )  # fmt: skip
    guidance, images, labels, regions = guidance_of(config)
    same = {"weight_grad": "detach", "head": "autograd", "max_pair_pull": 0.2}
    own = {"threshold": 0.3, "sharpness": 4.0, "binarize": "sigmoid"}
    for name, settings in {"iou": {**same, **own}, "energy": same}.items():
        assert {k: getattr(guidance.criteria[name], k) for k in settings} == settings
    guidance.tap.model.eval()  # without dropout two forwards are alike
    _, term = guidance(images, labels, regions)
    with guidance.tap as tap:
        logits = guidance.tap.model(images)
        options = {"cell_weights": 1 + 4 * regions, "where": labels[:, :1] > 0}
        for name, found in term.losses.items():
            wanted = guidance.criteria[name](logits, tap, regions, targets=[0], **options)
            torch.testing.assert_close(found, wanted.detach())
    for changes, value in (({"max_pair_pull": 0.0}, None), ({"sharpness_warmup": True}, 0.2)):
        guidance, *_ = guidance_of(dataclasses.replace(config, **changes))
        assert guidance.criteria["iou"].max_pair_pull == value
    assert guidance.sharpness == 1.0
    guidance.set_progress(0.5)
    assert guidance.sharpness == 2.5
    checkpoint = Checkpoint(
        build(MODEL, 3), MODEL, ["Lips", "Eyes", "Dark"], Preprocessing(32, "crop")
    )
    judged = task.AttributeTask(checkpoint, TrainConfig(guidance=config))
    assert judged.val_means["iou"].threshold == 0.3


@pytest.mark.parametrize("layer", [None, "features.1"])
@pytest.mark.parametrize("guide", ["positives", "all", "true_class"])
def test_the_layer_and_the_images_that_are_named_are_guided(guide: Any, layer: str | None) -> None:
    config = dataclasses.replace(MOUTH, guide=guide, target_layer=layer, sharpness_warmup=False)
    guidance, images, labels, _ = guidance_of(config)
    model, cells = guidance.tap.model.eval(), 8 if layer is None else 16
    regions, present = torch.rand(6, 1, cells, cells).round(), labels[:, :1] > 0
    _, term = guidance(images, labels, regions)
    with ActivationTap(model, layer or "features.3") as tap:
        wanted = IoUCamLoss(head="autograd")(
            model(images), tap, regions, 0, cell_weights=1 + 2 * regions,
            where=present if guide == "positives" else None,
            signs=torch.where(present, 1.0, -1.0) if guide == "true_class" else None,
        )  # fmt: skip
    torch.testing.assert_close(term.losses["iou"], wanted.detach())


def test_attention_is_guided_with_its_weights_in_the_gradient() -> None:
    """torch's own kernels of attention cannot be differentiated twice."""
    net = NETS["vit"]
    model = net.build().float()
    spec = ModelSpec(lambda classes: model, net.layer, reshape=net.reshape)
    names = [f"{k}" for k in range(model(torch.zeros(1, 3, 32, 32)).shape[1])]
    config = GuidanceConfig(((names[0], "mouth"),), guide="all")
    guidance = Guidance(config, model, spec, names)
    _, term = guidance(torch.randn(2, 3, 32, 32), torch.ones(2, len(names)), torch.rand(2, 1, 4, 4))
    term.total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_true_class_is_guided_by_the_map_of_the_negated_score() -> None:
    torch.manual_seed(0)
    model = build(MODEL, 3).double().eval()
    images, signs = torch.randn(6, 3, 32, 32).double(), torch.tensor([1.0, -1, 1, -1, -1, 1])
    regions = torch.rand(6, 8, 8).double()
    spec = model_spec(MODEL)
    with ActivationTap(model, spec.target_layer, spec.gradient_at) as tap:
        logits = model(images)
        got = IoUCamLoss(reduction="none")(logits, tap, regions, 0, signs=signs.double())
    with ActivationTap(model, spec.target_layer) as tap:
        logits = model(images) * signs[:, None]
        wanted = IoUCamLoss(reduction="none", head="autograd")(logits, tap, regions, 0)
        with pytest.raises(ValueError, match=r"signs: expected shape \[6\] or \[6,1\], got \[5\]"):
            IoUCamLoss(head="autograd")(logits, tap, regions, 0, signs=signs[:5])
    torch.testing.assert_close(got, wanted)


def test_a_fine_tuning_knows_what_it_was_worth_before(
    data: Path, start: Path, tmp_path: Path
) -> None:
    config = TrainConfig.finetune(start, data, MOUTH, epochs=2, **SMALL)
    result = train(config, tmp_path)
    assert result.before is not None
    assert set(result.before) == set(result.after)
    records = read_history(result.history)
    assert (records[0]["step"], records[0]["valid/loss"]) == (0, result.before["valid/loss"])
    assert records[-1]["valid/accuracy"] == pytest.approx(result.after["valid/accuracy"])
    kept = train(config, tmp_path)
    assert kept.kept
    assert (kept.before, kept.after) == (result.before, result.after)
    settings = json.loads((tmp_path / "settings.json").read_text())
    stored = load_checkpoint(result.checkpoint).history[-1]["settings"]
    assert settings["guidance"] == stored["guidance"]
    assert (settings["guidance"]["pull"], settings["guidance"]["w_g"]) == (1.0, None)


def test_the_summary_says_it_in_words() -> None:
    before = {"valid/accuracy_target": 0.871, "valid/accuracy": 0.863, "valid/energy": 0.117}
    better = {"valid/accuracy_target": 0.866, "valid/accuracy": 0.865, "valid/energy": 0.466}
    assert summary(MOUTH, before, better) == (
        "validation, before and after: accuracy of Lips 87.1 % → 86.6 %; mean accuracy 86.3 % → "
        "86.5 %; Grad-CAM energy in mouth 11.7 % → 46.6 %"
    )
    worse = {**better, "valid/accuracy_target": 0.502, "valid/energy": None}
    said = summary(MOUTH, before, worse)
    assert "energy in mouth 11.7 % → none" in said
    assert "The network got worse: the accuracy of Lips fell by 36.9 points; try a lower" in said
    assert "--without nothing" not in said
    assert summary(MOUTH, before, worse, hides=True).endswith("or hide nothing (--without nothing)")
    assert summary(dataclasses.replace(MOUTH, pull=0.0), before, worse).endswith("36.9 points")
    dead = summary(MOUTH, before, {**better, "valid/dead": 0.47})
    assert "47.0 % of the maps are empty" in dead
    assert "empty" not in summary(MOUTH, before, {**better, "valid/dead": 0.1})


def test_the_command_prints_it(
    data: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", start, data, "-a", "Lips", "-r", "mouth", "-o", tmp_path / "tuned"]
    options = ["--batch-size", 10, "--workers", 1, "--device", "cpu"]
    assert cli.main([str(x) for x in (*command, *options)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "validation, before and after: accuracy of Lips" in said
    assert "Grad-CAM energy in mouth" in said


@pytest.mark.parametrize(("batch_size", "patience"), [(64, 0), (10, 0), (10, 2)])
def test_a_run_that_diverges_is_no_success(
    data: Path, tmp_path: Path, batch_size: int, patience: int
) -> None:
    """Also in its last step, where only validation can see it."""
    config = TrainConfig(
        str(data), model=MODEL, size=32, epochs=1, lr=1e30, patience=patience,
        batch_size=batch_size, device="cpu", workers=1,
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match=rf"the training in {tmp_path} diverged: the .* nan"):
        train(config, tmp_path)
    assert not (tmp_path / "model.pt").exists()
    assert not (tmp_path / "last.ckpt").exists()
    stored = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert "diverged" in stored
    with pytest.raises(FileNotFoundError, match="does not exist: the training in .* diverged"):
        load_checkpoint(tmp_path / "model.pt")


def _read_every(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let runs on the CPU read their steps' metrics as rarely as those on a GPU."""
    monkeypatch.setattr(
        run, "History", lambda path, examine, every: History(path, examine, every=steps)
    )


@pytest.mark.parametrize(("every", "save_minutes"), [(1, 5.0), (100, 5.0), (100, 0.0)])
def test_the_last_good_state_is_kept(
    data: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    save_minutes: float,
) -> None:
    step = task.AttributeTask.training_step

    def spoiled(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        return loss * math.nan if self.trainer.global_step >= 3 else loss

    monkeypatch.setattr(task.AttributeTask, "training_step", spoiled)
    _read_every(monkeypatch, every)
    config = TrainConfig.finetune(start, data, MOUTH, epochs=3, save_minutes=save_minutes, **SMALL)
    with pytest.raises(TrainingDiverged, match=r"gradient became nan in step 4 of 9;.*last\.ckpt"):
        train(config, tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(v.isfinite().all() for v in saved["state_dict"].values() if isinstance(v, Tensor))


_PACKAGE = Path(fastcam.__file__).parent


class _ScalarsRead(TorchDispatchMode):
    """Counts by function of fastcam/training how often a scalar is read from its device."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.ops.aten._local_scalar_dense.default:
            frames = traceback.extract_stack()
            package = [f for f in frames if Path(f.filename).is_relative_to(_PACKAGE)]
            if Path(package[-1].filename).parent.name == "training":
                self.readers[package[-1].name] += 1
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_its_device(
    data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers: list[int] = []
    kept = history._floats
    monkeypatch.setattr(history, "_floats", lambda v: transfers.append(len(v)) or kept(v))
    results, reads = {}, {}
    for every in (1, 100):
        _read_every(monkeypatch, every)
        transfers.clear()
        config = TrainConfig.finetune(start, data, MOUTH, epochs=2, **{**SMALL, "batch_size": 4})
        with _ScalarsRead() as seen:
            results[every] = train(config, tmp_path / str(every))
        # Validations, saves and the end of the run wait; no step does.
        waiting = {"_validate", "on_validation_epoch_end", "check_weights", "_train"}
        waiting |= {"recalibrate", "fit_bias", "check_scores"}
        assert seen.readers.keys() <= waiting
        reads[every] = sum(1 for count in transfers if count)
    # 6 steps an epoch, 3 validations: there are too few images to re-fit a bias.
    assert reads == {1: 2 * 6 + 3, 100: 2 + 3}
    assert read_history(results[1].history) == read_history(results[100].history)
    assert same_weights(results[1].checkpoint, results[100].checkpoint)


def test_evaluate_and_explain_say_that_scores_are_no_numbers(
    data: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(start)
    with torch.no_grad():
        next(checkpoint.model.parameters()).fill_(math.nan)
    spoiled = tmp_path / "model.pt"
    save_checkpoint(spoiled, checkpoint)
    image = next((data / "img_align_celeba").glob("*.jpg"))
    for command in (
        ["evaluate", spoiled, data, "-a", "Lips", "-r", "mouth", "--workers", 1],
        ["explain", spoiled, image, "-a", "Lips", "-o", tmp_path / "e.png"],
    ):
        assert cli.main([str(x) for x in command]) == 2
        assert "images are not finite" in capsys.readouterr().err.replace("\n", " ")
