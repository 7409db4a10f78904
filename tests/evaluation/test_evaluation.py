"""Accuracy on the subsets, energy and IoU: against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_faces import ATTRIBUTES, HEIGHT, MODEL, WIDTH, TinyNet, write_faces
from tiny_masks import write_images
from torch import Tensor, nn

from fastcam.data import CelebA, PreparedFaces
from fastcam.evaluation import (
    Evaluation,
    Predictions,
    accuracy_differences,
    attention_maps,
    bootstrap_interval,
    checkpoints,
    compare,
    comparison,
    difference_table,
    energy_share,
    equal_specificity,
    evaluate,
    pick_device,
    predict,
    region_drops,
    reliance,
    set_iou,
    summarize,
)
from fastcam.evaluation.bootstrap import gain_interval
from fastcam.evaluation.classes import judged_columns, leads, odds_columns
from fastcam.evaluation.explain import explain, explain_dataset, explain_image
from fastcam.evaluation.given import name_checkpoints
from fastcam.evaluation.metrics import calibration_error
from fastcam.evaluation.operating_point import threshold_for
from fastcam.evaluation.splits import prepare_split
from fastcam.evaluation.verdicts import THRESHOLDS
from fastcam.functional import margins
from fastcam.models import Checkpoint, ModelSpec, model_spec, save_checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.regions import Region, template_landmarks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(TinyNet(3).eval(), MODEL, list(ATTRIBUTES), Preprocessing(32))


def test_energy_and_iou_by_hand() -> None:
    cams = torch.tensor([[0.0, 0.2, 1.0, 0.6]]).view(1, 1, 2, 2)
    regions = torch.tensor([[0.0, 1.0, 0.5, 0.0]]).view(1, 1, 2, 2)
    assert energy_share(cams, regions).item() == pytest.approx((0.2 + 0.5) / 1.8)
    # The set is {1.0, 0.6}: I = 0.5, U = 1 + 1 + 1.
    assert set_iou(cams, regions).item() == pytest.approx(0.5 / 3)
    assert set_iou(cams, regions, 0.1).item() == pytest.approx(1.5 / 3)
    dead = torch.zeros(1, 1, 2, 2)
    assert math.isnan(energy_share(dead, regions).item())
    assert set_iou(dead, regions).item() == 0
    assert set_iou(dead, torch.zeros_like(dead)).item() == 0


class _Linear(nn.Module):
    """Logits that are a weighted sum of two feature maps: its Grad-CAM is known."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.5, -2.0], [-1.0, 0.0]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images * 1.0).mean((-2, -1)) @ self.weight.T


def test_attention_maps_of_a_known_network() -> None:
    model = _Linear().train()
    model.weight.grad = torch.ones_like(model.weight)
    images = torch.rand(2, 2, 3, 4)
    maps = attention_maps(
        model, images, [1, 0, 2], ModelSpec(lambda k: model, "features", reshape="nchw")
    )
    raw = (0.5 * images[:, 0] - 2 * images[:, 1]).relu()
    peak = raw.amax((-2, -1), keepdim=True)
    torch.testing.assert_close(maps.cams[:, 0], raw / peak.clamp(min=1e-12))
    torch.testing.assert_close(maps.cams[:, 1], images[:, 0] / images[:, 0].amax((-2, -1), True))
    assert not maps.cams[:, 2].any()
    assert maps.dead.tolist() == [[not bool(p), False, True] for p in peak.flatten()]
    torch.testing.assert_close(maps.logits, model(images).detach())
    assert not maps.logits.requires_grad
    with torch.no_grad():
        again = attention_maps(
            model, images, [1, 0, 2], ModelSpec(lambda k: model, "features", reshape="nchw")
        )
        turned = attention_maps(
            model, images, [2], ModelSpec(lambda k: model, "features", reshape="nchw"), torch.neg
        )
    assert again.cams.equal(maps.cams)
    torch.testing.assert_close(turned.cams, maps.cams[:, 1:2])
    assert turned.logits.equal(maps.logits)
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert model.training


def test_subsets_by_hand() -> None:
    labels = torch.tensor([[1, 1], [1, 0], [1, 0], [0, 1], [0, 0], [1, 1.0]])
    logits = torch.tensor([[2, 1], [1, 0.5], [-1, -1], [-2, 1], [3, -1], [-0.5, 1.0]])
    found = summarize(
        Predictions(
            logits,
            labels,
            energy=torch.tensor([0.5, 0.3, math.nan, 0.9, 0.9, 0.1]),
            iou=torch.tensor([0.4, 0.2, 0.0, 0.7, 0.7, 0.1]),
            dead=torch.tensor([False, False, True, False, False, False]),
            visible=torch.tensor([True, True, True, True, True, False]),
            size_corrected_energy=torch.tensor([2.0, 4.0, math.nan, 1.0, 1.0, 9.0]),
            pointing=torch.tensor([1.0, 0, 0, 1, 1, 1]),
            attention_iou=torch.tensor([0.6, 0.3, 0, 0.8, 0.8, 0.8]),
        ),
        ["A", "B"],
        attribute="A",
        other="B",
        region="mouth",
    )
    sizes = {s.name: s.images for s in found.subsets}
    cells = {"E1": 2, "E2": 2, "not a, b": 1, "not a, not b": 1}
    assert sizes == {"all": 6, "a": 4, "not a": 2, "b": 3, "not b": 3} | cells
    accuracy = {s.name: s.accuracy for s in found.subsets}
    whole = dict.fromkeys(("all", "a", "not a", "E1", "E2"), 0.5)
    uneven = {"not a, b": 1.0, "not a, not b": 0.0, "b": 2 / 3, "not b": 1 / 3}
    assert accuracy == pytest.approx(whole | uneven)
    assert found.worst_group == 0
    # Within b: 2, -0.5 with a against -2; within ¬b: 1, -1 against 3; in all, 3 beats them all.
    assert (found["b"].auc, found["not b"].auc, found["all"].auc) == (1, 0, 0.5)
    assert (found["E1"].auc, found["a"].auc) == (None, None)
    assert found["b"].average_precision == 1
    assert found["not b"].average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.balanced_accuracy == 0.5
    # Ranked: 3 (not a), 2 (a), 1 (a), -0.5 (a), -1 (a), -2 (not a).
    precision = [1 / 2, 2 / 3, 3 / 4, 4 / 5]
    assert found.average_precision == pytest.approx(sum(precision) / 4, abs=1e-6)
    # B: only the second image is wrong (score above 0, not B).
    assert found.mean_accuracy == pytest.approx((3 / 6 + 5 / 6) / 2)
    # Image 5 does not show the region; image 2's map is dead: no energy, IoU 0.
    assert found["a"].energy == pytest.approx(0.4)
    assert found["a"].iou == pytest.approx(0.2)
    assert (found["a"].dead, found["E1"].dead, found["E2"].dead) == (1, 0, 1)
    assert found["E2"].energy == pytest.approx(0.3)
    assert found["E2"].iou == pytest.approx(0.1)
    a = found["a"]
    assert (a.size_corrected_energy, a.pointing) == (3, pytest.approx(1 / 3))
    assert a.attention_iou == pytest.approx(0.3)


def test_empty_subsets_have_no_scores() -> None:
    found = summarize(
        Predictions(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0]])),
        ["A", "B"],
        attribute="A",
        other="B",
    )
    assert found["E2"].accuracy is None
    assert found.balanced_accuracy is None
    assert found["E1"].energy is None
    assert "–" in comparison({"model": found}).to_markdown()


def test_prediction_equals_a_plain_loop(data: Path, checkpoint: Checkpoint) -> None:
    faces = PreparedFaces(CelebA(data, "test"), 32, cache=True)
    seen: list[tuple[int, int]] = []
    found = predict(
        checkpoint, faces, attribute="Eyes", region="mouth", batch_size=5,
        progress=lambda d, n: seen.append((d, n)),
    )  # fmt: skip
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert torch.equal(found.labels, faces.labels)
    for i in (0, 7):
        image = checkpoint.preprocessing.normalize(faces[i]["image"].as_subclass(Tensor)[None])
        torch.testing.assert_close(found.logits[i], checkpoint.model(image)[0].detach())
        maps = attention_maps(checkpoint.model, image, [1], model_spec(MODEL))
        points = faces[i]["landmarks"].as_subclass(Tensor)[None].numpy()
        grid = torch.from_numpy(Region.parse("mouth").grid(points, (32, 32), (8, 8)))[:, None]
        torch.testing.assert_close(found.energy[i], energy_share(maps.cams, grid)[0, 0])
        torch.testing.assert_close(found.iou[i], set_iou(maps.cams, grid)[0, 0])
    without = predict(checkpoint, CelebA(data, "test"), attribute="Eyes")
    torch.testing.assert_close(without.logits, found.logits)
    assert without.energy is None


def test_prediction_of_batches_equals_a_plain_loop(checkpoint: Checkpoint) -> None:
    model, batch = checkpoint.model.train(), _batch()
    batch["regions"][0, 1] = 0
    found = predict(checkpoint, [batch], attribute="Eyes", region=1, threshold=0.2)
    assert model.training
    images = checkpoint.preprocessing.ready(batch["image"])
    maps = attention_maps(model.eval(), images, [1], model_spec(MODEL))
    torch.testing.assert_close(found.logits, maps.logits)
    grid = nn.functional.avg_pool2d(batch["regions"][:, 1:], 4)
    torch.testing.assert_close(found.energy, energy_share(maps.cams, grid)[:, 0])
    torch.testing.assert_close(found.iou, set_iou(maps.cams, grid, 0.2)[:, 0])
    # Of a class the map is that of its margin, not of its logit.
    classes = dataclasses.replace(checkpoint, exclusive=True)
    own = predict(classes, [batch], attribute="own_class", region=1)
    targets = batch["labels"].argmax(1)[:, None]
    maps = attention_maps(model, images, targets, model_spec(MODEL), margins)
    torch.testing.assert_close(own.energy, energy_share(maps.cams, grid)[:, 0], equal_nan=True)
    # Cells that the region covers in part show it, too.
    assert found.visible is not None and found.visible.tolist() == [False, True, True]


def test_a_binary_grid_is_drawn_as_asked(data: Path, checkpoint: Checkpoint) -> None:
    faces = PreparedFaces(CelebA(data, "test"), 32, cache=True)
    found = predict(checkpoint, faces, attribute="Eyes", region="mouth", grid="binary")
    images = torch.stack([torch.as_tensor(faces[i]["image"]) for i in range(len(faces))])
    points = torch.stack([torch.as_tensor(faces[i]["landmarks"]) for i in range(len(faces))])
    grid = Region.parse("mouth").grid(points.numpy(), (32, 32), (8, 8), "binary")
    images = checkpoint.preprocessing.normalize(images)
    maps = attention_maps(checkpoint.model, images, [1], model_spec(MODEL))
    wanted = energy_share(maps.cams, torch.from_numpy(grid)[:, None])[:, 0]
    torch.testing.assert_close(found.energy, wanted, equal_nan=True)


def test_a_comparison_measures_as_each_function_does(
    data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = save_checkpoint(tmp_path / "one.pt", checkpoint)
    given: dict[str, Any] = {"attribute": "Lips", "region": "mouth", "split": "valid"}
    (found,) = compare(
        [path], data, other="Eyes", threshold=0.2, limit=9, reliance_images=5, fill="blur",
        hide=["nose,chin"], device="cpu", **given,
    ).evaluations.values()  # fmt: skip
    plain = evaluate(checkpoint, data, other="Eyes", threshold=0.2, limit=9, **given)
    assert dataclasses.replace(found, reliance=None) == plain
    assert plain != evaluate(checkpoint, data, other="Eyes", limit=9, **given)
    faces = prepare_split(checkpoint, data, "valid", limit=9)
    assert faces.rows == list(range(9))
    parts = [*faces.parts, "nose,chin"]
    given = {"attribute": "Lips", "region": "mouth", "others": parts, "images": 5}
    assert found.reliance == reliance(checkpoint, faces, fill="blur", **given)


def test_evaluation_is_saved_and_read(data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = {"attribute": "Lips", "other": "Eyes", "region": "mouth"}
    found = evaluate(checkpoint, data, **options, limit=10)
    assert found["all"].images == 10
    assert Evaluation.load(found.save(tmp_path / "e.json")) == found
    json.loads((tmp_path / "e.json").read_text())
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(ValueError, match="is no evaluation"):
        Evaluation.load(tmp_path / "e.json")


def test_some_images_are_of_all_classes_where_one_folder_follows_the_other(tmp_path: Path) -> None:
    for i, kind in enumerate(("ant", "bee", "cat")):
        for number in range(7 + i):
            path = tmp_path / "test" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    checkpoint = Checkpoint(
        TinyNet(3).eval(), MODEL, ["ant", "bee", "cat"], Preprocessing(32), exclusive=True
    )
    some = prepare_split(checkpoint, tmp_path, "test", limit=6, cache=False)
    assert some.labels.sum(0).tolist() == [2, 2, 2]
    assert some.rows == [0, 4, 8, 12, 16, 20]
    assert len(prepare_split(checkpoint, tmp_path, "test", limit=99, cache=False)) == 24


def test_accuracy_over_classes_is_called_so(checkpoint: Checkpoint) -> None:
    batch = {"image": torch.rand(6, 3, 32, 32), "labels": torch.arange(6) % 3}
    classes = dataclasses.replace(checkpoint, exclusive=True)
    found = evaluate(classes, [batch], attribute="Lips")  # type: ignore[list-item]
    rows = {row[0]: row[1] for row in comparison({"one": found}).rows}
    assert found.exclusive and Evaluation.from_json(found.to_json()) == found
    assert rows["accuracy, all classes (top 1)"] == f"{100 * found.mean_accuracy:.2f}%"
    assert "accuracy, mean of all attributes" not in rows


def test_models_side_by_side(data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = Checkpoint(TinyNet(3), MODEL, list(ATTRIBUTES), Preprocessing(32))
    paths = [
        save_checkpoint(tmp_path / name / "model.pt", c)
        for name, c in (("first", checkpoint), ("second", other))
    ]
    result = compare(
        paths, data, attribute="Lips", other="Eyes", region="mouth", out=tmp_path / "out",
        split="all", reliance_images=20, hide=["nose,chin"], device="cpu",
    )  # fmt: skip
    table, relied = result.tables
    assert table.header == ["", "first", "second"]
    labels = [row[0] for row in table.rows]
    assert "accuracy, mean of all attributes" in labels
    for part in ("E1 = Lips ∩ Eyes", "E2 = Lips ∩ not Eyes", "not Lips", "balanced accuracy",
                 "average precision", "mean of all attributes", "energy in mouth", "IoU with mouth",
                 "dead maps", "least accuracy", "AUC, Eyes", "AUC, not Eyes", "pointing",
                 "accuracy of E2 at first's accuracy of not Lips", "calibration", "Attention-IoU",
                 "energy over area of mouth", "not Lips ∩ not Eyes"):  # fmt: skip
        assert any(part in label for label in labels), part
    stored = json.loads((tmp_path / "out.json").read_text())
    assert list(stored) == ["first", "second"]
    markdown = (tmp_path / "out.md").read_text()
    (verdict,) = result.verdicts
    assert (verdict.reference, verdict.guided) == ("first", "second")
    assert markdown == (
        f"{verdict}\n\n{THRESHOLDS}\n\n{table.to_markdown()}\n{relied.to_markdown()}\n"
        "<!-- made by fastcam -->\n"
    )
    names = [row[0] for row in relied.rows]
    assert names[0] == "share of the reliance in mouth"
    assert names[2].startswith("all but mouth hidden (n = ")
    assert names[-1].startswith("nose,chin hidden")
    for name, values in stored.items():
        assert Evaluation.from_json(values) == result.evaluations[name]
    first = result.evaluations["first"]
    assert first.equal_specificity.accuracy == first["E2"].accuracy
    assert first.verdict is None
    old = json.loads(json.dumps(stored["second"]))
    for key in ("worst_group", "reliance", "verdict", "equal_specificity"):
        del old[key]
    del old["subsets"][0]["auc"]
    assert Evaluation.from_json(old).reliance is None
    assert f"{100 * stored['second']['subsets'][0]['accuracy']:.2f}%" in markdown
    assert "<script>" not in type(table)(["<script>"], [["a & b"]]).to_html()
    one = evaluate(checkpoint, data, attribute="Lips")
    two = evaluate(checkpoint, data, attribute="Eyes")
    with pytest.raises(ValueError, match="different things"):
        comparison({"one": one, "two": two})


def test_checkpoints_of_other_attributes_and_without_reliance(
    data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = Checkpoint(TinyNet(2), MODEL, ["Eyes", "Lips"], Preprocessing(32))
    paths = {
        name: save_checkpoint(tmp_path / name / "model.pt", c)
        for name, c in (("guided", other), ("control", checkpoint), ("before", checkpoint))
    }
    result = compare(
        paths, data, attribute="Lips", other="Eyes", region="mouth", reliance_images=0,
        split="all", device="cpu",
    )  # fmt: skip
    (table,) = result.tables
    assert "accuracy, mean of all attributes that each one judges" in [row[0] for row in table.rows]
    assert result.evaluations["guided"].judged == ("Eyes", "Lips")
    (verdict,) = result.verdicts
    assert (verdict.reference, verdict.guided) == ("control", "guided")
    assert "the reliance is not known" in verdict.words
    # The control against itself is where it was.
    equal = result.evaluations["control"].equal_specificity
    assert (equal.threshold, equal.accuracy) == (0, result.evaluations["control"]["E2"].accuracy)
    alone = compare([paths["guided"]], data, attribute="Lips", reliance_images=4, device="cpu")
    assert (alone.verdicts, len(alone.tables)) == ([], 2)
    with pytest.raises(ValueError, match="fill: expected one of"):
        compare(paths, data, attribute="Lips", fill="grey")
    with pytest.raises(ValueError, match="beard"):
        compare(paths, data, attribute="Lips", hide=["beard"])
    less = Checkpoint(TinyNet(1), MODEL, ["Lips"], Preprocessing(32))
    loaded: Any = {"a": less}
    with pytest.raises(TypeError, match=r"^checkpoints: expected paths, got Checkpoint for 'a'"):
        compare(loaded, data, attribute="Lips")
    paths["less"] = save_checkpoint(tmp_path / "less.pt", less)
    with pytest.raises(ValueError, match=r"'Eyes'; .*less\.pt judges: Lips$"):
        compare(paths, data, attribute="Eyes", reliance_images=0, device="cpu")


def test_images_are_read_once_for_checkpoints_that_take_the_same(
    data: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = dataclasses.replace(checkpoint, preprocessing=Preprocessing(24))
    fitted = dataclasses.replace(checkpoint, preprocessing=Preprocessing(32, "face"))
    paths = {
        name: save_checkpoint(tmp_path / name / "model.pt", c)
        for name, c in (("a", checkpoint), ("b", checkpoint), ("c", fitted), ("d", smaller))
    }
    read: list[int] = []

    def counted(model: Checkpoint, *args: Any, **options: Any) -> Any:
        read.append(model.preprocessing.size)
        return prepare_split(model, *args, **options)

    monkeypatch.setattr(checkpoints, "prepare_split", counted)
    options: dict[str, Any] = {"attribute": "Lips", "reliance_images": 0, "device": "cpu"}
    together = compare(paths, data, **options).evaluations
    assert read == [32, 32, 24]
    for name, path in paths.items():
        assert compare({name: path}, data, **options).evaluations[name] == together[name]


def test_names_of_checkpoints() -> None:
    given = ["runs/control/model.pt", "runs/mouth/last.ckpt", "theirs/resnet.pth"]
    assert name_checkpoints(given) == dict(zip(["control", "mouth", "resnet"], given, strict=True))
    runs = ["control", "mouth"]
    for name in ("model_best.pth.tar", "epoch_9.pth", "9"):  # of timm's trainer, of many others
        given = [f"runs/{run}/{name}" for run in runs]
        assert name_checkpoints(given) == dict(zip(runs, given, strict=True))
    same = ["one/runs/model.pt", "two/runs/model.pt"]
    assert name_checkpoints(same) == dict(zip(same, same, strict=True))


def test_the_other_attribute_need_not_be_judged(
    data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """One who keeps the misleading label from a network still asks where it misleads."""
    alone, weights = TinyNet(1), checkpoint.model.state_dict()
    last = ("classifier.3.weight", "classifier.3.bias")
    alone.load_state_dict({k: v[:1] if k in last else v for k, v in weights.items()})
    less = Checkpoint(alone, MODEL, ["Lips"], Preprocessing(32))
    given = {"attribute": "Lips", "other": "Eyes", "split": "all", "limit": 7}
    wanted = evaluate(checkpoint, data, region="mouth", **given)
    found = evaluate(less, data, region="mouth", **given)
    assert found.subsets == wanted.subsets
    assert 0 < found["E1"].images < found["all"].images == 7
    assert found.mean_accuracy == found["all"].accuracy
    paths = {
        name: save_checkpoint(tmp_path / name / "model.pt", c)
        for name, c in (("control", checkpoint), ("less", less))
    }
    both = compare(paths, data, reliance_images=0, device="cpu", **given).evaluations
    assert both["less"].subsets == both["control"].subsets
    assert both["less"].equal_specificity == both["control"].equal_specificity


def test_the_other_attribute_is_read_of_the_judged_images_alone(tmp_path: Path) -> None:
    """Images, landmarks and warnings of other splits have nothing to do with it."""
    torch.manual_seed(0)
    both = Checkpoint(TinyNet(2).eval(), MODEL, ["Lips", "Dark"], Preprocessing(32))
    data = write_faces(tmp_path, landmarks=False)
    for name in CelebA(data, "train", regions=False).names:
        (data / "img_align_celeba" / name).unlink()
    with pytest.warns(UserWarning, match="template") as said:
        found = evaluate(both, data, attribute="Lips", other="Eyes", region="mouth")
    assert ["all 12 images" in str(each.message) for each in said] == [True]
    faces = CelebA(data, "test", regions=False)
    assert found["E1"].images == len(faces.subset("Lips", "Eyes").both) > 0
    path = save_checkpoint(tmp_path / "both.pt", both)
    with warnings.catch_warnings():  # nor landmarks with what draws no region
        warnings.simplefilter("error")
        compare([path], data, attribute="Lips", other="Eyes", reliance_images=0, device="cpu")


def test_the_threshold_of_equal_specificity() -> None:
    scores = torch.tensor([-2.0, -1.0, 1.0, 3.0])
    assert threshold_for(scores, 2) == 0
    assert threshold_for(scores, 3) == 1
    assert threshold_for(scores, 4) == 3
    assert -2 < threshold_for(scores, 1) < -1 + 1e-9
    assert threshold_for(scores, 0) < -2
    for right in range(5):
        assert int((scores.double() <= threshold_for(scores, right)).sum()) == right
    tied = torch.tensor([1.0, 1.0, 2.0])
    assert threshold_for(tied, 1) == 1  # two are at or under it: one alone cannot be
    labels = torch.tensor([[1.0, 0], [1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [0, 1]])
    reference = Predictions(torch.tensor([1.0, -1, 1, 0, -1, -1, 1])[:, None].repeat(1, 2), labels)
    eager = Predictions(torch.tensor([0.8, 4, 1, -1, 0.5, 0.8, 2])[:, None].repeat(1, 2), labels)
    options = {"attribute": "a", "other": "b", "name": "control"}
    found = equal_specificity(eager, reference, ["a", "b"], **options)
    # Three of ¬a stay at or under .8, and of the two of E2 one lies above, one on it.
    assert (found.reference, found.threshold) == ("control", pytest.approx(0.8))
    assert found.accuracy == 0.5
    # One of ¬a alone may stay under it: the threshold is just below the next, and its equals.
    sure = Predictions(torch.tensor([1.0, -1, 1, 0, 1, 1, 1])[:, None].repeat(1, 2), labels)
    shy = Predictions(torch.tensor([-1, -1.5, 1, -3, -1, -0.5, -0.2])[:, None].repeat(1, 2), labels)
    low = equal_specificity(shy, sure, ["a", "b"], **options)
    assert low.accuracy == 0.5 and -1 - 1e-9 < low.threshold < -1
    no_b = Predictions(reference.logits[2:], labels[2:])
    assert equal_specificity(no_b, no_b, ["a", "b"], **options).accuracy is None
    no_negative = Predictions(reference.logits[:3], labels[:3])
    assert equal_specificity(no_negative, no_negative, ["a", "b"], **options) is None


def test_wrong_names_and_data(data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        evaluate(checkpoint, data, attribute="Nose")
    with pytest.raises(ValueError, match="unknown attribute 'Nose'; this data has: Lips"):
        evaluate(checkpoint, data, attribute="Lips", other="Nose")
    paths = [save_checkpoint(tmp_path / "model.pt", checkpoint)]
    twice: dict[str, Any] = {"attribute": "Lips", "other": "Lips"}
    for call in (
        lambda: evaluate(checkpoint, data, **twice),
        lambda: evaluate(checkpoint, [_batch()], **twice),
        lambda: compare(paths, data, device="cpu", **twice),
        lambda: CelebA(data, "test").subset("Lips", "Lips"),
    ):
        with pytest.raises(ValueError, match="an attribute and another one, got 'Lips' twice"):
            call()
    with pytest.raises(ValueError, match="beard"):
        evaluate(checkpoint, data, attribute="Lips", region="beard")
    faces = PreparedFaces(CelebA(data, "test"), 24, cache=True)
    with pytest.raises(ValueError, match="at 24 pixels with fit 'crop', the model takes 32"):
        predict(checkpoint, faces, attribute="Lips")
    faces = PreparedFaces(CelebA(data, "test"), 32, fit="face", cache=True)
    with pytest.raises(ValueError, match="with fit 'face', the model takes 32 and 'crop'"):
        predict(checkpoint, faces, attribute="Lips")
    checkpoint.attributes = ["Lips", "Eyes", "Hat"]
    with pytest.raises(ValueError, match="unknown attribute 'Hat'; this data has: Lips"):
        evaluate(checkpoint, data, attribute="Lips")
    with pytest.raises(ValueError, match="they must be the same, in the same order"):
        predict(checkpoint, CelebA(data, "test"), attribute="Lips")
    with pytest.raises(ValueError, match="unknown device"):
        pick_device("abacus")


def _batch(**changes: Tensor) -> Any:
    """A batch of three images with two regions, of a user's own."""
    images = torch.rand(3, 3, 32, 32)
    found = {"image": images, "labels": torch.eye(3), "regions": torch.rand(3, 2, 32, 32).round()}
    return found | changes


@pytest.mark.parametrize("bad", [math.nan, -1.0, 2.0, math.inf])
def test_labels_that_say_neither_are_refused(checkpoint: Checkpoint, bad: float) -> None:
    labels = torch.eye(3)
    labels[1, 2] = bad
    words = rf"labels: expected 0 or 1, got {bad:g} \(1 of 9 are neither\)"
    for region in (None, 0):
        with pytest.raises(ValueError, match=words):
            evaluate(checkpoint, [_batch(labels=labels)], attribute="Lips", region=region)
    with pytest.raises(ValueError, match=words):
        region_drops(checkpoint, [_batch(labels=labels)], attribute="Lips", region=0)
    batch = _batch()
    soft = _batch(**{**batch, "labels": 0.3 + 0.4 * torch.eye(3)})
    plain = evaluate(checkpoint, [batch], attribute="Lips")
    assert evaluate(checkpoint, [soft], attribute="Lips") == plain


def test_what_is_no_batch_is_named(checkpoint: Checkpoint) -> None:
    batch = _batch()
    pair: Any = (batch["image"], batch["labels"])
    bare: Any = {"image": batch["image"], "labels": batch["labels"]}
    for given, words in (
        (pair, "batch: expected a dict with 'image', 'labels', 'regions', got tuple of 2"),
        (bare, "batch: expected .* of 'regions' got keys image, labels"),
    ):
        with pytest.raises(TypeError, match=words):
            evaluate(checkpoint, [given], attribute="Lips", region=0)
        with pytest.raises(TypeError, match=words):
            region_drops(checkpoint, [given], attribute="Lips", region=0)
    assert evaluate(checkpoint, [bare], attribute="Lips").mean_accuracy is not None
    classes = dataclasses.replace(checkpoint, exclusive=True)
    for labels, words in (
        (torch.tensor([0, 1, 3]), r"labels: expected classes in \[0, 2\], got 3"),
        (torch.tensor([0, -1, 2]), r"labels: expected classes in \[0, 2\], got -1"),
        (torch.zeros(3, 3), "labels: expected one class for each image, got .* a sum of 0"),
    ):
        given = _batch(labels=labels)
        with pytest.raises(ValueError, match=words):
            evaluate(classes, [given], attribute="own_class", region=0)
        with pytest.raises(ValueError, match=words):
            region_drops(classes, [given], attribute="own_class", region=0)


def test_a_region_of_batches_is_a_position_that_there_is(
    data: Path, checkpoint: Checkpoint
) -> None:
    batches = [_batch()]
    for place in (5, 2, -1):
        words = rf"region: expected a position in \[0, 1\] of the batches' 2 regions, got {place}"
        with pytest.raises(ValueError, match=words):
            evaluate(checkpoint, batches, attribute="Lips", region=place)
        with pytest.raises(ValueError, match=words):
            region_drops(checkpoint, batches, attribute="Lips", region=place)
        with pytest.raises(ValueError, match=words):
            region_drops(checkpoint, batches, attribute="Lips", region=0, others=[place])
    with pytest.raises(ValueError, match="region: batches have .* one's position, got 'True'"):
        evaluate(checkpoint, batches, attribute="Lips", region=True)
    with pytest.raises(ValueError, match=r"region, others: batches have .* got \[True\]"):
        region_drops(checkpoint, batches, attribute="Lips", region=True)
    faces = PreparedFaces(CelebA(data, "test"), 32, cache=True)
    for named in (5, True):
        words = f"region: expected text or a region, of batches a position, got {named}"
        with pytest.raises(TypeError, match=words):
            evaluate(checkpoint, data, attribute="Lips", region=named)
        with pytest.raises(TypeError, match=words):
            region_drops(checkpoint, faces, attribute="Lips", region=named)


def test_evaluation_leaves_the_model_as_it_was(data: Path, checkpoint: Checkpoint) -> None:
    model = checkpoint.model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(checkpoint, data, attribute="Lips", region="mouth")
    assert model.training
    assert model.classifier[0].training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_bootstrap_intervals() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 1, 400)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    error = values.std() / 20  # of the mean of 400; the normal interval is ±1.96 of it
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    wide = bootstrap_interval(values, level=0.99)
    assert wide[0] < low < high < wide[1]
    assert bootstrap_interval([0.25] * 5) == (0.25, 0.25)
    for wrong in ({"values": []}, {"values": [1.0], "level": 1.0}, {"values": [1.0], "samples": 0}):
        with pytest.raises(ValueError, match="expected"):
            bootstrap_interval(**wrong)


def test_images_none_of_which_differs_leave_a_difference_open() -> None:
    none = np.zeros(20)
    # One more of each kind that differs: of 22 images 1 and 1.
    reach = 1.96 * (2 / 22 / 22) ** 0.5
    assert gain_interval(none) == pytest.approx((-reach, reach))
    low, high = gain_interval(none - 1)
    assert low == -1 and -0.9 < high < -0.7
    assert gain_interval(none[:1]) == (-1, 1)
    # As often as it says it holds what another 21 images of the same kind would say.
    rng = np.random.default_rng(0)
    drawn = rng.choice([1.0, 0.0], p=[0.05, 0.95], size=(400, 21))
    ends = {}
    for gains in drawn:
        key = int(gains.sum())
        ends[key] = ends.get(key) or gain_interval(gains)
    held = [ends[int(g.sum())][0] <= 0.05 <= ends[int(g.sum())][1] for g in drawn]
    assert np.mean(held) > 0.9


def test_classes_are_judged_by_what_leads() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0, 3, 5], [1, 1.5, -1], [0, 0, 4]])
    labels = torch.eye(3)[[0, 1, 1, 2]]
    wanted = torch.tensor([[1.0, -1, -2], [-5, -2, 2], [-0.5, 0.5, -2.5], [-4, -4, 4]])
    assert leads(logits).equal(wanted)
    net = Checkpoint(nn.Identity(), MODEL, ["ant", "bee", "cat"], exclusive=True)
    scores, given = judged_columns(net, logits, labels)
    assert scores.equal(torch.cat([wanted, torch.tensor([[1.0], [-2], [0.5], [4]])], 1))
    assert given.equal(torch.cat([labels, torch.ones(4, 1)], 1))
    odds = odds_columns(net, logits, labels)
    assert odds is not None
    shares = logits.softmax(1)
    torch.testing.assert_close(odds[:, :3].sigmoid(), shares)
    torch.testing.assert_close(odds[:, 3].sigmoid(), shares[labels > 0.5])
    found = summarize(
        Predictions(scores, given, exclusive=True, odds=odds), net.judged, attribute="bee",
        other="ant",
    )  # fmt: skip
    # Of bees one of two is found, and nothing else is taken for one; in all, three of four.
    assert (found["a"].accuracy, found["not a"].accuracy) == (0.5, 1)
    assert (found.mean_accuracy, found.balanced_accuracy, found.judged) == (0.75, 0.75, None)
    bee = shares[:, 1:2]
    error = calibration_error(bee.logit(), labels[:, 1:2])
    assert found.calibration_error == pytest.approx(float(error))
    own = summarize(
        Predictions(scores, given, exclusive=True, odds=odds), net.judged, attribute="own_class"
    )
    assert (own["all"].accuracy, own["not a"].images, own.calibration_error) == (0.75, 0, None)


def test_explained_images_show_the_map_and_the_probability_of_the_class(data: Path) -> None:
    torch.manual_seed(0)
    net = Checkpoint(TinyNet(3).train(), MODEL, list(ATTRIBUTES), Preprocessing(32), exclusive=True)
    faces = PreparedFaces(CelebA(data, "test"), 32, cache=True)
    chosen = [i for i in range(len(faces)) if faces.labels[i].argmax() > 0][:2]
    found = explain_dataset({"one": net}, faces, chosen, "own_class")
    assert net.model.training
    net.model.eval()
    for i, one in zip(chosen, found, strict=True):
        image = faces[i]["image"].as_subclass(Tensor)
        target = int(faces.labels[i].argmax())
        assert one.judged == {"one": ATTRIBUTES[target]}
        pixels = net.preprocessing.normalize(image[None])
        maps = attention_maps(net.model, pixels, [target], model_spec(MODEL), margins)
        np.testing.assert_allclose(one.cams["one"], maps.cams[0, 0], atol=1e-6)
        assert one.scores["one"] == pytest.approx(float(maps.logits[0].softmax(0)[target]))
        own = explain({"one": net}, image, "own_class")  # whose class nobody says
        assert own.judged == {"one": ATTRIBUTES[int(maps.logits[0].argmax())]}


def test_the_region_lies_on_the_square_that_is_shown(checkpoint: Checkpoint, data: Path) -> None:
    path = next((data / "img_align_celeba").iterdir())
    found = explain_image({"one": checkpoint}, path, "Lips", region="mouth")
    points = (template_landmarks(WIDTH, HEIGHT) - [0, (HEIGHT - WIDTH) / 2]) * 32 / WIDTH
    wanted = Region.parse("mouth").rectangles(points[None].astype(np.float32))[0]
    np.testing.assert_allclose(found.rectangles, wanted, atol=1e-3)


def test_classes_are_ranked_by_their_probabilities() -> None:
    names, judged = ["ant", "bee", "cat"], {}
    images = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 3, (80,))
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = Checkpoint(TinyNet(3).eval(), MODEL, names, Preprocessing(32), exclusive=True)
        batches: Any = [{"image": images, "labels": labels, "regions": torch.ones(80, 1, 8, 8)}]
        with torch.no_grad():
            shares = net.model(net.preprocessing.normalize(images)).softmax(1)[:, 1]
        predictions = predict(net, batches, attribute="bee", region=0)
        found = summarize(predictions, net.judged, attribute="bee", other="ant")
        for name, rows in (("all", labels >= 0), ("not b", labels != 0)):
            gaps = shares[rows & (labels == 1), None] - shares[rows & (labels != 1)]
            wanted = ((gaps > 0).double() + (gaps == 0) / 2).mean()
            assert found[name].auc == pytest.approx(float(wanted), abs=1e-6)
        order = shares.argsort(descending=True)
        hits = (labels == 1)[order].double()
        precision = hits.cumsum(0) / torch.arange(1, 81)
        assert found.average_precision == pytest.approx(
            float((precision * hits).sum() / hits.sum()), abs=1e-6
        )
        judged[str(seed)] = checkpoints.Measured(net.judged, predictions, None)
    both = checkpoints.summarize_all(judged, attribute="bee", other=None, region="0")
    changed = both["1"].verdict
    assert changed is not None and changed.auc is not None
    found_areas = [e["all"].auc for e in both.values()]
    assert [changed.auc.before, changed.auc.after] == pytest.approx(found_areas, abs=1e-6)


def test_accuracy_differences() -> None:
    names = ["a", "b"]
    #                      a∩b       a∩¬b             ¬a
    labels = torch.tensor([[1.0, 1], [1, 0], [1, 0], [0, 1]])
    right = Predictions(torch.tensor([[2.0, 0], [1, 0], [-1, 0], [-3, 0]]), labels)
    wrong = Predictions(torch.tensor([[2.0, 0], [-1, 0], [-1, 0], [3, 0]]), labels)
    found = accuracy_differences(right, wrong, names, attribute="a", other="b")
    assert {d.name: (d.images, d.mean) for d in found} == {
        "all": (4, 0.5), "E1": (1, 0.0), "E2": (2, 0.5), "a": (3, pytest.approx(1 / 3)),
        "not a": (1, 1.0), "not a, b": (1, 1.0), "not a, not b": (0, None),
    }  # fmt: skip
    e2 = found[2]
    assert e2.low == 0 and e2.high == 1
    assert (found[1].low, found[1].high) == (-1, 1)  # of one image
    back = accuracy_differences(wrong, right, names, attribute="a", other="b")
    assert [d.mean for d in back[:6]] == [pytest.approx(-d.mean) for d in found[:6]]
    table = difference_table({"right − wrong": found}, attribute="a", other="b")
    assert table.rows[2] == ["accuracy of a, E2 = a ∩ not b (n = 2)", "+50.0 (+0.0 to +100.0)"]
    none = accuracy_differences(right, wrong, names, attribute="b")
    assert [d.name for d in none] == ["all", "a", "not a"]
    no_a = Predictions(torch.zeros(2, 2), torch.zeros(2, 2))
    empty = accuracy_differences(no_a, no_a, names, attribute="a", other="b")[1]
    assert (empty.images, empty.mean, empty.low) == (0, None, None)
    with pytest.raises(ValueError, match="same images"):
        accuracy_differences(right, Predictions(right.logits, 1 - labels), names, attribute="a")


def test_a_split_without_images_names_those_that_have_some(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace(",test", ",train"))
    net = Checkpoint(TinyNet(2).eval(), MODEL, ["red", "frame"], Preprocessing(32))
    with pytest.raises(ValueError, match=r"no image in the test split; it has train \(36\), valid"):
        evaluate(net, root, attribute="red")
