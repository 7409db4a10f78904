"""``AttributeTask`` in a Lightning trainer of one's own, over two processes, is that in one."""

from __future__ import annotations

import dataclasses
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
from networks import grids
from tiny_faces import MODEL, TinyNet
from trainer_worker import CONFIG, NAMES, SHARES, Shares, fit

from fastcam.models.checkpoint import Checkpoint, Preprocessing
from fastcam.training import AttributeTask, GuidanceConfig, TrainConfig, TrainingDiverged
from fastcam.training import task as task_module


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


def test_small_scores_are_no_probabilities() -> None:
    """torchmetrics would take logits for probabilities where all lie in [0, 1]."""
    checkpoint = Checkpoint(TinyNet(len(NAMES)), MODEL, NAMES, Preprocessing(32, "crop"))
    last = checkpoint.model.classifier[3]  # type: ignore[index,union-attr]
    with torch.no_grad():
        last.weight.zero_()  # type: ignore[operator,union-attr]
        last.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))  # type: ignore[operator,union-attr]
    given = loader(batch(8, labels=torch.ones(8, len(NAMES))))
    (found,) = trainer().validate(AttributeTask(checkpoint, GUIDED), given, verbose=False)
    assert found["valid/accuracy"] == 1
    dark = dataclasses.replace(GUIDED, guidance=GuidanceConfig((("Dark", "mouth"),)))
    given = loader(batch(8, labels=torch.tensor([[0.0, 0, 1]]).repeat(8, 1)))
    (found,) = trainer().validate(AttributeTask(checkpoint, dark), given, verbose=False)
    assert found["valid/accuracy_target"] == 1
    assert found["valid/accuracy"] == pytest.approx(1 / 3)


def test_a_positive_without_a_region_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = task_module.attention_maps

    def maps(*args: Any) -> Any:
        found = plain(*args)
        found.dead[5:] = True
        return found

    monkeypatch.setattr(task_module, "attention_maps", maps)
    torch.manual_seed(0)
    checkpoint = Checkpoint(TinyNet(len(NAMES)), MODEL, NAMES, Preprocessing(32, "crop"))
    task = AttributeTask(checkpoint, GUIDED)
    whole = batch(8, labels=torch.ones(8, len(NAMES)))
    whole["regions"][5:] = 0
    some = {key: value[:5] for key, value in whole.items()}
    found = [trainer().validate(task, loader(b), verbose=False)[0] for b in (whole, some)]
    for name in ("valid/energy", "valid/iou", "valid/dead"):
        assert found[0][name] == pytest.approx(found[1][name])
    assert found[0]["valid/energy"] > 0


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


GUIDED = TrainConfig(guidance=GuidanceConfig((("Lips", "mouth"),)))


def batch(count: int = 4, **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {
        "image": torch.randn(count, 3, 32, 32, generator=generator),
        "labels": (torch.rand(count, len(NAMES), generator=generator) < 0.6).float(),
        "regions": grids(count, 1, 8, 8).float(),
    }
    return {k: v for k, v in {**found, **changes}.items() if v is not None}


def loader(*batches: Any) -> Any:
    return torch.utils.data.DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def run(train: Any, valid: Any = None, config: TrainConfig = GUIDED, **options: Any) -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet(len(NAMES))
    exclusive = options.pop("exclusive", False)
    checkpoint = Checkpoint(net, MODEL, NAMES, Preprocessing(32, "crop"), exclusive=exclusive)
    trainer(**options).fit(AttributeTask(checkpoint, config), train, valid)
    return net


DARK = batch()["labels"]
FORMS = {
    "tuple": (tuple(batch().values()), "dict with 'image', 'labels', 'regions', got list of 3"),
    "no regions": (batch(regions=None), "of 'regions' got keys image, labels"),
    "a list": (batch(labels=DARK.tolist()), "all tensors; of 'labels' got list"),
    "signs": (batch(labels=2 * DARK - 1), r"labels: expected 0 or 1, got -1 \("),
    "NaN": (batch(labels=DARK * torch.nan), "labels: expected 0 or 1, got nan"),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_another_form_are_refused(form: str) -> None:
    wrong, said = FORMS[form]
    with pytest.raises((TypeError, ValueError), match=said):
        run(loader(batch(), wrong))
    if form != "no regions":  # which a validation can do without
        with pytest.raises(
            (TypeError, ValueError), match=said.replace(", 'regions', got", ", got")
        ):
            run(loader(batch()), loader(wrong))
    run(loader(batch(labels=DARK / 2)), loader(batch(regions=None)))  # soft labels will do


def test_classes_are_one_for_each_image() -> None:
    config = TrainConfig()
    for labels, said in [
        (torch.tensor([0, 1, 2, 3]), r"labels: expected classes in \[0, 2\], got 3"),
        (torch.tensor([0, 1, -1, 2]), r"labels: expected classes in \[0, 2\], got -1"),
        (torch.ones(4, 3), "expected one class for each image, got a row with a sum of 3"),
    ]:
        with pytest.raises(ValueError, match=said):
            run(loader(batch(labels=labels)), config=config, exclusive=True)
    run(loader(batch(labels=torch.tensor([0, 1, 2, 2]))), config=config, exclusive=True)


class Unsized:
    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_loaders_that_give_nothing_are_told() -> None:
    with pytest.raises(ValueError, match="valid: expected a loader that gives images anew in each"):
        run(loader(batch()), Unsized())
    with pytest.raises(ValueError, match="valid: expected a loader that gives images anew in each"):
        run(loader(batch()), iter([batch()]))
    with pytest.raises(ValueError, match="train: expected a loader .* got none in epoch 2"):
        run(iter([batch()]), Unsized(batch()))
    run(Unsized(batch()), Unsized(batch(), batch(0)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trainer_of_one_s_own_does_not_go_on_from_nan(accumulate: int) -> None:
    """``nonfinite``, which ``train`` obeys."""
    bad = batch(image=torch.full((4, 3, 32, 32), torch.nan))
    config = dataclasses.replace(GUIDED, accumulate=accumulate)
    with pytest.raises(TrainingDiverged, match="the attribute loss became nan in step 2 of 6"):
        run(loader(batch(), bad, batch()), config=config)
    skips = dataclasses.replace(config, nonfinite="skip")
    net = run(loader(batch(), bad, batch()), loader(batch()), config=skips)
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    with pytest.raises(TrainingDiverged, match="in step 10 of 24, as in the 9 skipped ones before"):
        run(loader(*[bad] * 12), config=skips)


def test_a_step_of_several_batches_is_skipped_once() -> None:
    bad = batch(image=torch.full((4, 3, 32, 32), torch.nan))
    skips = dataclasses.replace(GUIDED, nonfinite="skip")
    run(loader(*[bad] * 12), config=skips, accumulate_grad_batches=3)  # eight steps


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
