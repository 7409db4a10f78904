"""Images with masks, classes, and data loaders of one's own: trained, guided and judged."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from PIL import Image
from tiny_faces import MODEL
from tiny_masks import CLASSES, HEIGHT, WIDTH, write_images
from tiny_runs import run_config, same_weights
from torch import Tensor
from torch.nn import functional as nnf
from torch.utils.data import DataLoader

from fastcam import ActivationTap, IoUCamLoss, cli, functional
from fastcam.data import MaskedFolder, PreparedImages, open_folder
from fastcam.data.batches import Batch, Collate, labels_of, on_grid
from fastcam.data.layout_finder import find_layout
from fastcam.evaluation import compare, evaluate, predict, reliance
from fastcam.evaluation.classes import judged_columns, leads
from fastcam.evaluation.explain import explain_dataset, explain_files, explain_image
from fastcam.evaluation.splits import prepare_split
from fastcam.models import Checkpoint, build, load_checkpoint, model_spec, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.report.faces import faces_figure
from fastcam.training import AttributeTask, Batches, GuidanceConfig, TrainConfig, train
from fastcam.training.guidance import Guidance
from fastcam.training.history import read_history
from fastcam.training.inputs import folder_batches, open_data
from fastcam.training.recalibrate import recalibrate

SQUARE = GuidanceConfig((("red", "square"),), sharpness=4.0)
OWN = GuidanceConfig((("own_class", "square"),), sharpness=4.0)
SETTINGS: dict[str, Any] = {"fit": "stretch", "epochs": 4, "augment": "none", "clip": 5.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 96, masks="folders")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_images(tmp_path_factory.mktemp("classes"), 96, masks="folders")
    find_layout(root, classes="kind").save(root)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_config(data, **SETTINGS), tmp_path_factory.mktemp("trained")).checkpoint


@pytest.fixture(scope="module")
def classified(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = run_config(classes, **{**SETTINGS, "epochs": 12})
    return train(config, tmp_path_factory.mktemp("classified")).checkpoint


def batches_of(checkpoint: Checkpoint, root: Path, split: str, *, floating: bool = False) -> Any:
    """Batches as a user's own loader yields them: no more than image, labels and regions."""
    images = prepare_split(checkpoint, root, split, regions=["square", "frame"])
    regions = [images.region(text) for text in ("square", "frame")]
    found = []
    for batch in DataLoader(images, batch_size=7, collate_fn=Collate(regions, (32, 32))):
        own: Batch = {k: batch[k] for k in ("image", "labels", "regions")}
        if checkpoint.exclusive:
            own["labels"] = own["labels"].argmax(1)
        if floating:
            own["image"] = checkpoint.preprocessing.normalize(own["image"])
        found.append(own)
    return found


# ---- folders with masks -------------------------------------------------------------------------


def test_a_fine_tuning_that_would_guide_nothing_is_refused(trained: Path, tmp_path: Path) -> None:
    """It ran to its end, and changed what no guidance changes."""
    root = write_images(tmp_path / "data", 48, masks="folders")

    def tune(*targets: str, **guidance: Any) -> Path:
        pairs = tuple(zip(targets[::2], targets[1::2], strict=True))
        tuned = {"start": str(trained), "guidance": GuidanceConfig(pairs, **guidance)}
        settings = {**SETTINGS, **tuned, "epochs": 1}
        return train(run_config(root, **settings), tmp_path / "run").checkpoint

    masks = sorted((root / "masks" / "frame").iterdir())
    reds = MaskedFolder(root).index.labels[:, 0]
    for path in masks:
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
    empty = r"of \d+ training images with red \d+ have frame, all empty in what .* \(32 pixels, fit"
    with pytest.raises(ValueError, match=f"^guidance: nothing would be guided: {empty}"):
        tune("red", "frame")
    with pytest.raises(ValueError, match="of 24 training images 24 have frame"):
        tune("red", "frame", guide="all")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("*.pt"))
    assert tune("red", "frame", pull=0.0).is_file()  # a control guides nothing anyway
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match=f"^guidance: {empty}"):
        tune("red", "frame", "red", "square")
    shutil.rmtree(tmp_path / "run")
    for row, path in enumerate(masks):  # of those that lack the attribute all have the region
        shown = np.full((HEIGHT, WIDTH), 0 if reds[row] else 255, np.uint8)
        Image.fromarray(shown).save(path)
    with pytest.raises(ValueError, match=f"^guidance: nothing would be guided: {empty}"):
        tune("red", "frame")
    for path in masks:
        path.unlink()
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(root / "masks/frame/0048.png")
    with pytest.raises(
        ValueError, match=r"guided: none of \d+ training images with red has frame$"
    ):
        tune("red", "frame")


def test_masks_guide_as_landmarks_do(data: Path, trained: Path, tmp_path: Path) -> None:
    energy, found = {}, {}
    for name, pull in (("control", 0.0), ("guided", 2.0)):
        guidance = dataclasses.replace(
            SQUARE, targets=(("red", "frame"),), pull=pull, max_pair_pull=0.0
        )
        config = run_config(
            data, start=str(trained), guidance=guidance, **{**SETTINGS, "epochs": 6}
        )
        result = train(config, tmp_path / name)
        assert result.landmark_sources == {"frame": 48}
        assert result.before is not None and 0 < (result.before["valid/energy"] or 0) < 1
        checkpoint = load_checkpoint(result.checkpoint)
        found[name] = evaluate(checkpoint, data, attribute="red", other="frame", region="frame")
        energy[name] = found[name]["a"].energy or 0.0
    assert energy["guided"] > 1.3 * energy["control"]
    assert found["control"]["all"].images == 24
    assert found["control"].data == str(data)


def test_the_commands_take_a_folder_with_masks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    start = tmp_path / "start.pt"
    model = Checkpoint(build(MODEL, 2), MODEL, ["red", "frame"], Preprocessing(32, "stretch"))
    save_checkpoint(start, model)
    small = ["--batch-size", 16, "--device", "cpu"]

    def run(*arguments: Any) -> str:
        assert cli.main([str(x) for x in arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    tuned = tmp_path / "tuned" / "model.pt"
    masks = data / "masks" / "square"
    said = run("finetune", start, data, "-a", "red", "--regions", masks, "-o", tuned.parent, *small)
    assert "masks of the training images: 48 square" in said
    stored = json.loads((tuned.parent / "settings.json").read_text())
    assert stored["guidance"]["targets"] == [["red", "square"]]
    assert (stored["regions"], stored["without"]) == (str(masks), "outside")
    said = run("evaluate", start, tuned, data, "-a", "red", "-r", "square", *small)
    for words in ("all but square hidden", "frame hidden", "Grad-CAM energy in square", "against"):
        assert words in said
    image = data / "images" / "0001.jpg"
    run("explain", tuned, image, "-a", "red", "-r", "square,frame", "--regions", data / "masks",
        "-o", tmp_path / "seen.png")  # fmt: skip
    assert (tmp_path / "seen.png").stat().st_size > 5000
    assert cli.main(["finetune", str(start), str(data), "-a", "red"]) == 2
    assert "give one --region for each --attribute: one of frame, square" in capsys.readouterr().err
    for wrong, words in (("squares", "did you mean 'square'"), ("", "no region ''")):
        assert cli.main(["finetune", str(start), str(data), "-a", "red", "-r", wrong]) == 2
        assert words in capsys.readouterr().err


def test_init_writes_what_the_other_commands_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_images(tmp_path / "d", 12)
    assert cli.main(["init", str(root), "--classes", "kind", "--split", "split"]) == 0
    said = capsys.readouterr().out
    assert "3 classes" in said and f"written: {root / 'fastcam.json'}" in said
    assert "fastcam finetune runs/train/model.pt" in said
    folder = open_folder(root)
    assert isinstance(folder, MaskedFolder) and folder.exclusive
    assert cli.main(["init", str(root / "images")]) == 2
    assert "has no label" in capsys.readouterr().err


def test_a_hidden_region_and_a_killed_run(data: Path, trained: Path, tmp_path: Path) -> None:
    config = run_config(
        data, start=str(trained), guidance=SQUARE, **{**SETTINGS, "epochs": 2, "augment": "full"}
    )
    hidden = dataclasses.replace(config, without="frame", hide_share=1.0)
    outside = dataclasses.replace(config, without="outside")
    runs = [train(c, tmp_path / str(i)) for i, c in enumerate((config, hidden, outside))]
    assert not any(same_weights(runs[0].checkpoint, r.checkpoint) for r in runs[1:])
    kept = AttributeTask.training_step

    def dies(self: AttributeTask, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 7:
            raise ArithmeticError("killed")
        return kept(self, batch, batch_idx)

    broken = dataclasses.replace(hidden, save_minutes=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AttributeTask, "training_step", dies)
        with pytest.raises(ArithmeticError, match="killed"):
            train(broken, tmp_path / "broken")
    resumed = train(broken, tmp_path / "broken")
    assert same_weights(resumed.checkpoint, runs[1].checkpoint)
    with pytest.raises(ValueError, match="without frame,square hides 100% of .* square: the net"):
        dataclasses.replace(config, without="frame,square")


# ---- classes ------------------------------------------------------------------------------------


def test_classes_are_learned_guided_and_judged(
    classes: Path, classified: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(classified)
    assert (checkpoint.exclusive, checkpoint.attributes) == (True, list(CLASSES))
    assert checkpoint.judged == [*CLASSES, "own_class"]
    images = prepare_split(checkpoint, classes, "test")
    batch = Collate()([images[i] for i in range(len(images))])
    with torch.no_grad():
        logits = checkpoint.model(checkpoint.preprocessing.normalize(batch["image"]))
    right = logits.argmax(1) == batch["labels"].argmax(1)
    assert float(right.float().mean()) > 0.8
    found = evaluate(checkpoint, classes, attribute="own_class", region="square")
    assert found.mean_accuracy == pytest.approx(float(right.float().mean()))
    assert found["all"].accuracy == found.mean_accuracy
    assert (found.average_precision, found.calibration_error) == (None, None)
    bee = evaluate(checkpoint, classes, attribute="bee", other="ant")
    chosen = logits.argmax(1) == 1
    assert bee["all"].accuracy == pytest.approx(
        float((chosen == (batch["labels"][:, 1] > 0.5)).float().mean())
    )
    probability = logits.softmax(1)[:, 1]
    assert bee.calibration_error is not None
    wanted = _calibration(probability, batch["labels"][:, 1])
    assert bee.calibration_error == pytest.approx(wanted, abs=1e-5)
    relied = reliance(checkpoint, images_with(checkpoint, classes), attribute="own_class",
                      region="square", images=10)  # fmt: skip
    assert (relied.images, relied.hidden[0].images) == (10, 10)
    guided = run_config(classes, start=str(classified), guidance=OWN, **{**SETTINGS, "epochs": 1})
    tuned = train(guided, tmp_path / "tuned")
    assert (tuned.biases, load_checkpoint(tuned.checkpoint).exclusive) == ({}, True)
    names = set().union(*read_history(tuned.history))
    assert {"valid/energy", "valid/accuracy_target", "train/loss_g"} <= names
    assert tuned.before is not None
    assert tuned.before["valid/accuracy_target"] == tuned.before["valid/accuracy"]


@pytest.mark.parametrize("other", ["frame", "frame=1", "file=0096.jpg"])
def test_a_column_of_the_table_stands_beside_classes(
    other: str, classes: Path, classified: Path, tmp_path: Path
) -> None:
    """As of birds whose place misleads: it is no class, and the checkpoint does not judge it."""
    checkpoint = load_checkpoint(classified)
    images = prepare_split(checkpoint, classes, "test")
    rows = [line.split(",") for line in (classes / "labels.csv").read_text().splitlines()[1:]]
    wanted = {
        row[0] for row in rows if (row[0] == "0096.jpg" if "file" in other else row[2] == "1")
    }
    has = torch.tensor([name in wanted for name in images.names])
    alone = evaluate(checkpoint, classes, attribute="own_class")
    found = evaluate(checkpoint, classes, attribute="own_class", other=other)
    assert found["E1"].images == found["b"].images == int(has.sum()) > 0
    assert found["E2"].images == int((~has).sum())
    assert found.mean_accuracy == found["all"].accuracy == alone.mean_accuracy
    assert found["E1"].accuracy == predict_right(checkpoint, images)[has].mean()
    compared = compare(
        [classified], classes, attribute="ant", other=other, reliance_images=0, out=tmp_path / "x",
        device="cpu",
    )  # fmt: skip
    (one,) = compared.evaluations.values()
    ant = images.labels[:, 0] > 0.5
    assert one["not a, b"].images == int((has & ~ant).sum())
    assert f"accuracy of ant, E1 = ant ∩ {other} (n = {int((has & ant).sum())})" in [
        row[0] for row in compared.tables[0].rows
    ]
    assert one.mean_accuracy == alone.mean_accuracy


def predict_right(checkpoint: Checkpoint, images: Any) -> Tensor:
    batch = Collate()([images[i] for i in range(len(images))])
    with torch.no_grad():
        logits = checkpoint.model(checkpoint.preprocessing.normalize(batch["image"]))
    return (logits.argmax(1) == batch["labels"].argmax(1)).float()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("wings", r"unknown label 'wings'; this data has: ant, bee, cat; and the columns of .*"),
        ("split", r"line 2, split: expected 0 or 1, got 'train'; one value of many is split=VALUE"),
        ("split=dev", r"split: no cell is 'dev'; it has: test, train, val"),
    ],
)
def test_what_is_no_column_of_zeros_and_ones_is_named(
    other: str, words: str, classes: Path, classified: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(load_checkpoint(classified), classes, attribute="ant", other=other)
    with pytest.raises(ValueError, match=words):
        compare([classified], classes, attribute="ant", other=other, device="cpu")


def images_with(checkpoint: Checkpoint, root: Path) -> Any:
    return prepare_split(checkpoint, root, "test", regions=["square", "frame"])


def _calibration(probability: Tensor, labels: Tensor) -> float:
    """Expected calibration error by its definition, 15 bins of equal width."""
    total = 0.0
    for low in torch.arange(15) / 15:
        inside = (probability > low) & (probability <= low + 1 / 15)
        if inside.any():
            gap = probability[inside].mean() - labels[inside].mean()
            total += float(gap.abs() * inside.float().mean())
    return total


@pytest.mark.parametrize("target", ["bee", "own_class"])
def test_classes_are_guided_by_their_margins(target: str) -> None:
    torch.manual_seed(0)
    model = build(MODEL, 3).eval()
    images, labels = torch.randn(6, 3, 32, 32), nnf.one_hot(torch.tensor([0, 1, 2, 1, 1, 0]), 3)
    masks = torch.zeros(6, 32, 32)
    masks[:, 4:20, 8:24] = 1
    options: dict[str, Any] = {"sharpness_warmup": False, "region_weight": 1.0}
    config = GuidanceConfig(((target, "square"),), losses=("iou",), **options)
    loss = nnf.cross_entropy
    guidance = Guidance(
        config, model, model_spec(MODEL), list(CLASSES), lambda z, y: loss(z, y.argmax(1)), True
    )
    attributes, term = guidance(images, labels.float(), masks)
    torch.testing.assert_close(attributes.loss, loss(attributes.logits, labels.argmax(1)))
    positions = labels.argmax(1) if target == "own_class" else torch.full((6,), 1)
    where = torch.ones(6, dtype=torch.bool) if target == "own_class" else labels[:, 1] > 0
    spec = model_spec(MODEL)
    with ActivationTap(model, spec.target_layer) as tap:
        scores = functional.margins(model(images))
        grids = on_grid(masks, (8, 8))[:, 0]
        criterion = IoUCamLoss(head="autograd", max_pair_pull=1.0)
        wanted = criterion(scores, tap, grids, positions, where=where)
    torch.testing.assert_close(term.losses["iou"], wanted.detach())


def test_leads_choose_as_the_largest_logit_does() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), nnf.one_hot(torch.arange(9) % 4, 4).float()
    found = leads(logits)
    assert torch.equal(found > 0, nnf.one_hot(logits.argmax(1), 4).bool())
    for k in range(4):
        others = logits[:, [j for j in range(4) if j != k]].amax(1)
        torch.testing.assert_close(found[:, k], logits[:, k] - others)
    checkpoint = Checkpoint(torch.nn.Identity(), MODEL, list("abcd"), exclusive=True)
    scores, truth = judged_columns(checkpoint, logits, labels)
    assert (scores.shape, truth[:, 4].tolist()) == ((9, 5), [1.0] * 9)
    assert torch.equal(scores[:, 4] > 0, logits.argmax(1) == labels.argmax(1))
    torch.testing.assert_close(checkpoint.scores(logits).sigmoid(), logits.softmax(1))
    plain = dataclasses.replace(checkpoint, exclusive=False)
    assert judged_columns(plain, logits, labels)[0] is logits


def test_the_biases_of_classes_are_fit_together() -> None:
    torch.manual_seed(0)
    model = build(MODEL, 3).eval()
    checkpoint = Checkpoint(model, MODEL, list(CLASSES), Preprocessing(32), exclusive=True)
    images = torch.randint(0, 256, (90, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0] * 50 + [1] * 25 + [2] * 15)
    found = recalibrate(checkpoint, [0, 1, 3], [{"image": images, "labels": labels}])
    assert list(found) == ["ant", "bee"]
    with torch.no_grad():
        shares = model(checkpoint.preprocessing.normalize(images)).softmax(1).mean(0)
    torch.testing.assert_close(shares, torch.tensor([50, 25, 15]) / 90, atol=1e-4, rtol=0)


def test_a_network_of_attributes_is_no_classifier_of_classes(
    data: Path, classes: Path, trained: Path, classified: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="judges attributes, which it has in any combination; "):
        evaluate(dataclasses.replace(load_checkpoint(trained), attributes=list(CLASSES)), classes,
                 attribute="ant")  # fmt: skip
    with pytest.raises(ValueError, match="unknown attribute 'own_class'"):
        evaluate(load_checkpoint(trained), data, attribute="own_class")
    with pytest.raises(ValueError, match="trained on other attributes"):
        train(run_config(classes, start=str(trained)), tmp_path)
    stored = torch.load(classified, weights_only=True)
    assert (stored["exclusive"], stored["version"]) == (True, 3)
    attention = run_config(classes, model="attention", model_options={"channels": 8})
    with pytest.raises(ValueError, match="loss: this model has one of its own"):
        train(attention, tmp_path)


# ---- data loaders of one's own ------------------------------------------------------------------


def test_batches_are_judged_as_the_folder_is(data: Path, trained: Path, classified: Path) -> None:
    checkpoint = load_checkpoint(trained)
    wanted = evaluate(checkpoint, data, attribute="red", other="frame", region="frame")
    for floating in (False, True):
        own = batches_of(checkpoint, data, "test", floating=floating)
        found = evaluate(checkpoint, own, attribute="red", other="frame", region=1)
        assert (found.data, found.region) == ("batches", "1")
        for subset in wanted.subsets:
            for name, value in vars(subset).items():
                assert getattr(found[subset.name], name) == pytest.approx(value, abs=1e-5), name
    own = batches_of(checkpoint, data, "test")
    images = images_with(checkpoint, data)
    inside = reliance(checkpoint, own, attribute="red", region=0, others=[1], images=24)
    same = reliance(checkpoint, images, attribute="red", region="square", others=["frame"],
                    images=24)  # fmt: skip
    assert [h.name for h in inside.hidden] == ["0", "all but 0", "1"]
    assert inside.deviation == pytest.approx(same.deviation, rel=1e-4)
    for one, other in zip(inside.hidden, same.hidden, strict=True):
        assert one.drop == pytest.approx(other.drop, rel=1e-4)
    few = reliance(checkpoint, own, attribute="red", region=0, images=9, fill="swap")
    assert few.images == 9
    with pytest.raises(ValueError, match="batches have their regions with them: .* got 'square'"):
        predict(checkpoint, own, attribute="red", region="square")
    with pytest.raises(ValueError, match=r"labels: expected \[N,2\] of 0 and 1, got .* \[7, 3\]"):
        labels_of({"labels": torch.zeros(7, 3)}, 2, False)
    classifier = load_checkpoint(classified)
    indices = [{**b, "labels": b["labels"].argmax(1)} for b in batches_of(checkpoint, data, "test")]
    assert predict(classifier, indices, attribute="own_class", region=0).exclusive


def test_a_loader_of_one_s_own_trains_and_fine_tunes(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(trained)
    loaders = [batches_of(checkpoint, data, split) for split in ("train", "valid")]
    own = Batches(*loaders, attributes=["red", "frame"])
    config = dataclasses.replace(run_config(data, epochs=2, schedule="cosine"), data="")
    first = train(config, tmp_path / "first", data=own)
    assert (first.epochs, first.landmark_sources) == (2, {})
    assert load_checkpoint(first.checkpoint).attributes == ["red", "frame"]
    guided = dataclasses.replace(
        config, start=str(first.checkpoint), schedule="constant",
        guidance=dataclasses.replace(SQUARE, targets=(("red", "0"), ("frame", "1"))),
    )  # fmt: skip
    result = train(guided, tmp_path / "guided", data=own)
    assert result.before is not None and "valid/energy" in result.before
    assert train(guided, tmp_path / "guided", data=own).kept
    again = train(guided, tmp_path / "again", data=own)
    assert same_weights(result.checkpoint, again.checkpoint)
    turned = Batches(*loaders, attributes=["frame", "red"])
    with pytest.raises(ValueError, match="whose labels are red, frame, in this order, got frame"):
        train(guided, tmp_path / "turned", data=turned)
    hides = dataclasses.replace(guided, without="outside")
    with pytest.raises(ValueError, match="without: batches of your own .* got 'outside'"):
        train(hides, tmp_path / "none", data=own)
    tuned = TrainConfig.finetune(first.checkpoint, "", SQUARE)  # its "auto" claims nothing
    assert tuned.without == "nothing"
    with pytest.raises(ValueError, match="data: expected a folder of images with labels, or batch"):
        train(config, tmp_path / "none")
    with pytest.raises(ValueError, match="data: expected a data module with `attributes`"):
        train(config, tmp_path / "none", data=LightningDataModule())


def test_the_task_runs_in_any_trainer_with_any_loss(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(trained)
    checkpoint.model.train()
    seen: list[int] = []

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(labels))
        return nnf.binary_cross_entropy_with_logits(logits, labels).pow(1.5)

    def stream(split: str) -> Any:
        class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
            def __iter__(self) -> Any:
                return iter(batches_of(checkpoint, data, split, floating=True))

        return DataLoader(Stream(), batch_size=None)

    config = TrainConfig(guidance=SQUARE, lr=0.01)
    single = dataclasses.replace(SQUARE, targets=(("red", "square"), ("frame", "frame")))
    task = AttributeTask(checkpoint, dataclasses.replace(config, guidance=single), focal)
    quiet: dict[str, Any] = {
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "accelerator": "cpu", "default_root_dir": tmp_path,
    }  # fmt: skip
    trainer = Trainer(max_epochs=1, **quiet)
    trainer.fit(task, stream("train"), stream("valid"))
    assert sum(seen) == 48
    found = trainer.callback_metrics
    assert {"valid/energy", "valid/accuracy", "train/loss_g", "train/grad_norm"} <= set(found)
    assert 0 < float(found["valid/energy"]) < 1
    cosine = AttributeTask(checkpoint, dataclasses.replace(config, schedule="cosine"))
    with pytest.raises(ValueError, match="schedule: cosine needs to know how many batches"):
        Trainer(max_epochs=1, **quiet).fit(cosine, stream("train"), stream("valid"))


# ---- pictures -----------------------------------------------------------------------------------


def test_a_mask_is_outlined_where_it_is(
    data: Path, trained: Path, classified: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(trained)
    images = images_with(checkpoint, data)
    assert isinstance(images, PreparedImages)
    (seen,) = explain_dataset({"one": checkpoint}, images, [2], "red", region="square")
    mask = images[2]["masks"].as_subclass(Tensor)[0].float() / 255
    assert seen.mask is not None and seen.has_region
    torch.testing.assert_close(torch.from_numpy(seen.mask), mask)
    file = data / "images" / images.names[2]
    out = explain_files([classified], [file], "own_class", tmp_path / "own.png", region="square",
                        regions=data / "masks" / "square")  # fmt: skip
    assert out.is_file()
    with pytest.raises(FileNotFoundError, match="regions: .*nowhere does not exist"):
        explain_files([trained], [file], "red", out, region="square", regions=data / "nowhere")


def test_a_map_of_the_chosen_class_says_which_it_is(
    classes: Path, classified: Path, tmp_path: Path
) -> None:
    classifier = load_checkpoint(classified)
    images = images_with(classifier, classes)
    own = explain_dataset({"one": classifier}, images, [0, 1, 2], "own_class")
    labels = [CLASSES[int(images[i]["labels"].argmax())] for i in range(3)]
    assert [face.judged["one"] for face in own] == labels
    file = classes / "images" / images.names[0]
    for row, name in enumerate(CLASSES):  # a network that always chooses the same
        with torch.no_grad():
            last = [p for p in classifier.model.parameters() if p.dim() == 1][-1]
            last.copy_(1e3 * (torch.arange(len(CLASSES)) == row))
        assert explain_image({"one": classifier}, file, "own_class").judged == {"one": name}
        assert not explain_image({"one": classifier}, file, "bee").judged
    figure = faces_figure([dataclasses.replace(own[0], judged={"one": "a class"})])
    assert "a class" in figure.axes[1].get_xlabel()


def test_reliance_takes_a_folder_as_evaluate_does(data: Path, trained: Path) -> None:
    """A path was taken for batches, and its region refused as no position."""
    checkpoint = load_checkpoint(trained)
    images = images_with(checkpoint, data)
    prepared = reliance(checkpoint, images, attribute="red", region="square", images=9)
    for given in (data, str(data), open_folder(data)):
        assert prepared == reliance(
            checkpoint, given, attribute="red", region="square", images=9, workers=0
        )
    one = reliance(
        checkpoint, data, attribute="red", region="square", others=[], split="all", images=80,
        regions=data / "masks",
    )  # fmt: skip
    assert [hidden.name for hidden in one.hidden] == ["square", "all but square"]
    assert one.images == 80
    with pytest.raises(ValueError, match="no region 'circle'"):
        reliance(checkpoint, data, attribute="red", region="circle")
    with pytest.raises(TypeError, match="region: expected text"):
        reliance(checkpoint, data, attribute="red", region=0)


def test_a_region_that_no_image_shows_is_told_of(trained: Path, tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", 24, masks="folders")
    (layout := find_layout(root)).save(root)
    assert "square" in layout.regions
    shutil.rmtree(root / "masks" / "square")
    with pytest.warns(UserWarning, match=r"none of the \d+ images shows the region square"):
        found = evaluate(load_checkpoint(trained), root, attribute="red", region="square")
    assert found["a"].energy is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        evaluate(load_checkpoint(trained), root, attribute="red", region="frame")


def test_a_run_of_other_labels_is_not_kept(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", 24, masks="folders")
    config = run_config(root, **{**SETTINGS, "epochs": 1})
    first = train(config, tmp_path / "run")
    find_layout(root).save(root)  # says what was found before
    assert train(config, tmp_path / "run").kept
    find_layout(root, classes="kind").save(root)
    with pytest.raises(ValueError, match=r"other settings \(labels_sha256\)"):
        train(config, tmp_path / "run")
    assert first.checkpoint.is_file()


def test_a_map_of_one_cell_cannot_be_directed(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    model = Checkpoint(
        build("resnet18", 2), "resnet18", ["red", "frame"], Preprocessing(32, "stretch")
    )
    save_checkpoint(start, model)
    config = run_config(data, start=str(start), guidance=SQUARE, **{**SETTINGS, "size": 32})
    with pytest.raises(ValueError, match="target_layer: expected a layer whose map has several"):
        train(config, tmp_path / "run")
    control = dataclasses.replace(config, guidance=dataclasses.replace(SQUARE, pull=0.0))
    batches = folder_batches(control, load_checkpoint(start), open_data(control))
    assert batches.collate.grid_size == (1, 1)  # of a control it is measured alone


def test_init_says_what_it_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_images(tmp_path / "my images", 24, masks="folders")
    assert cli.main(["init", str(root)]) == 0
    said = capsys.readouterr().out
    assert "replaced" not in said and f"fastcam train '{root}'" in said
    assert cli.main(["init", str(root), "--classes", "kind"]) == 0
    assert "replaced: classes, which was None" in capsys.readouterr().out
