"""Hidden regions: drops of a linear score, which are known, and what is made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_faces import ATTRIBUTES, MODEL, TinyNet, write_faces
from torch import Tensor, nn

from fastcam.data import CelebA, PreparedFaces, hide
from fastcam.evaluation import (
    RegionDrops,
    Reliance,
    region_drops,
    reliance,
    reliance_table,
    score_drops,
)
from fastcam.evaluation.cam_maps import ScoresNotFinite
from fastcam.evaluation.drop_samples import stratified_sample
from fastcam.evaluation.reliance_result import Estimate, relied_share
from fastcam.functional import margins
from fastcam.models import Checkpoint
from fastcam.models.checkpoint import Preprocessing
from fastcam.regions import FACE_PARTS, Region


class Linear(nn.Module):
    """Scores that are a weighted sum of the pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.flatten(1).T


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> PreparedFaces:
    root = write_faces(tmp_path_factory.mktemp("faces"), 60)
    return PreparedFaces(CelebA(root, "all"), 32, cache=True)


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(TinyNet(3).eval(), MODEL, list(ATTRIBUTES), Preprocessing(32))


def test_drops_of_a_linear_score_by_hand() -> None:
    # One image of four pixels, mean 3; the score counts the first pixel twice and the last once.
    images = torch.tensor([[[[1.0, 2.0], [4.0, 5.0]]]])
    model = Linear(torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 1]]))
    masks = torch.tensor([[[[1.0, 0], [0, 0]]], [[[0.0, 1], [1, 0]]], [[[0.0, 0], [0, 0.5]]]])
    found = score_drops(model, images, masks, 1)
    assert found.scores.tolist() == [7]
    # 2 (1 - 3); nothing; half of 5 - 3.
    assert found.drops.tolist() == [[-4], [0], [1]]
    assert not found.drops.requires_grad
    other = torch.full_like(images, 10)
    assert score_drops(model, images, masks, 1, fill=other).drops.tolist() == [[-18], [0], [-2.5]]
    bools = score_drops(model, images, masks > 0.6, 1)
    assert bools.drops.tolist() == [[-4], [0], [0]]


@pytest.mark.parametrize("fill", ["mean", "blur", "swap"])
def test_drops_equal_those_of_images_hidden_one_by_one(fill: str) -> None:
    images, masks = torch.randn(3, 3, 16, 16), torch.rand(2, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2)).eval()
    scores = model(images)[:, 1]
    expected = [scores - model(hide(images, mask, fill))[:, 1] for mask in masks]
    found = score_drops(model.train(), images, masks, 1, fill=fill)
    torch.testing.assert_close(found.drops, torch.stack(expected).detach())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_drops_of_a_score_of_each_image(dtype: torch.dtype) -> None:
    images, masks = torch.randn(3, 1, 4, 4), torch.rand(2, 3, 4, 4)
    model = Linear(torch.randn(4, 16))
    own = torch.tensor([2, 0, 3], dtype=dtype)
    found = score_drops(model, images, masks, own)
    each = [score_drops(model, images, masks, int(t)) for t in own]
    assert found.scores.equal(torch.stack([e.scores[n] for n, e in enumerate(each)]))
    assert found.drops.equal(torch.stack([e.drops[:, n] for n, e in enumerate(each)], 1))
    assert score_drops(model, images, masks, own[1]).drops.equal(each[1].drops)


def test_drops_refuse_what_does_not_fit() -> None:
    images, masks = torch.rand(2, 3, 4, 4), torch.rand(1, 2, 4, 4)
    model = Linear(torch.rand(1, 48))
    with pytest.raises(TypeError, match="images: expected a floating dtype, got torch.uint8"):
        score_drops(model, images.byte(), masks)
    with pytest.raises(ValueError, match="images and masks: expected"):
        score_drops(model, images, masks[0])
    with pytest.raises(ValueError, match="fill: expected the images' shape"):
        score_drops(model, images, masks, fill=images[:1])
    with pytest.raises(ValueError, match="fill: expected one of"):
        score_drops(model, images, masks, fill="black")
    with pytest.raises(ValueError, match="two or more to swap"):
        score_drops(model, images[:1], masks[:, :1], fill="swap")
    for fill in ("mean", images):
        with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], .*by 255\)"):
            score_drops(model, images, 255 * masks, fill=fill)
        with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], got nan"):
            score_drops(model, images, torch.nan * masks, fill=fill)
        with pytest.raises(TypeError, match=r"masks: expected dtype bool, .*torch\.uint8; pass"):
            score_drops(model, images, (255 * masks).byte(), fill=fill)


def test_drops_refuse_a_target_or_scores_that_there_are_not() -> None:
    images, masks = torch.rand(2, 3, 4, 4), torch.rand(1, 2, 4, 4)
    model = Linear(torch.rand(3, 48))
    assert score_drops(model, images, masks, np.int64(2)).drops.shape == (1, 2)
    for target in ([0, 1], 1.0, "1", None, True):
        with pytest.raises(TypeError, match="target: expected a whole number of at least 0, got"):
            score_drops(model, images, masks, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target: expected a whole number of at least 0, got -1"):
        score_drops(model, images, masks, -1)
    with pytest.raises(ValueError, match=r"target: expected a whole number in \[0, 2\], got 3"):
        score_drops(model, images, masks, 3)
    with pytest.raises(ValueError, match=r"target: .* in \[0, 2\], got 3"):
        score_drops(model, images, masks, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"target: expected one .* each \[2\], got shape \[3\]"):
        score_drops(model, images, masks, torch.tensor([0, 1, 2]))
    with pytest.raises(TypeError, match=r"target: expected whole numbers, got torch\.float32"):
        score_drops(model, images, masks, torch.zeros(2))
    with pytest.raises(TypeError, match=r"model: expected one that gives scores \[N,K\], got dict"):
        score_drops(lambda x: {"logits": model(x)}, images, masks)
    for shape in ((2,), (2, 3, 1), (1, 3)):
        with pytest.raises(ValueError, match=r"scores \[N,K\], got \[.*\] of 2 images"):
            score_drops(lambda x, shape=shape: torch.zeros(shape), images, masks)


def test_the_sample_takes_turns_and_begins_alike() -> None:
    labels = (torch.rand(41) < 0.3).float()
    labels[:3] = 1
    labels[3:9] = 0
    whole = stratified_sample(labels, 100)
    assert sorted(whole.tolist()) == list(range(41))
    pairs = int(min(labels.sum(), (1 - labels).sum()))
    assert labels[whole[: 2 * pairs]].tolist() == [1, 0] * pairs
    assert stratified_sample(labels, 7).equal(whole[:7])
    assert sorted(stratified_sample(torch.zeros(5), 3).tolist()) != [0, 1, 2]
    with pytest.raises(ValueError, match="images: expected at least 1"):
        stratified_sample(labels, 0)


def _drops(**changes: object) -> RegionDrops:
    values: dict[str, object] = {
        "attribute": "A", "names": ("mouth", "all but mouth", "nose"), "region": "mouth",
        "fill": "mean", "scores": torch.tensor([1.0, 3.0, -1.0]),
        "drops": torch.tensor([[1.0, 3.0, -2.0], [2.0, 8.0, 0.0], [4.0, -1.0, 1.0]]),
        "present": torch.tensor([True, True, False]),
        "visible": torch.tensor([[True] * 3, [True] * 3, [True, False, True]]),
        "inside": torch.tensor([1.0, 0, 0]),
        # The sample's two images with A stand for a quarter of the split each.
        "weights": torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64),
    }  # fmt: skip
    return RegionDrops(**(values | changes))  # type: ignore[arg-type]


def test_summary_by_hand() -> None:
    found = _drops().summarize()
    # Mean .25 + .75 - .5 = .5; squares .25 * .25 + .25 * 6.25 + .5 * 2.25.
    deviation = (0.0625 + 1.5625 + 1.125) ** 0.5
    assert found.deviation == pytest.approx(deviation)
    mouth = found["mouth"]
    assert (mouth.images, mouth.drop) == (2, pytest.approx(2 / deviation))
    assert mouth.change == pytest.approx((0.25 * 1 + 0.25 * 3 + 0.5 * 2) / deviation)
    # The second image does not show the nose.
    nose = found["nose"]
    assert (nose.images, nose.drop) == (1, pytest.approx(4 / deviation))
    assert nose.change == pytest.approx((0.25 * 4 + 0.5 * 1) / 0.75 / deviation)
    assert found.share is not None
    assert found.share.value == pytest.approx(2 / (2 + 5))
    assert 0 <= found.share.low <= found.share.value <= found.share.high <= 1
    assert Reliance.from_json(found.to_json()) == found
    table = found.table().to_markdown()
    assert f"| mouth | {2 / deviation:.2f} (" in table
    beside = reliance_table({"one": found, "two": found}).to_markdown()
    assert "| share of the reliance in mouth | 0.29 (" in beside
    assert "| nose hidden (n = 1) |" in beside
    with pytest.raises(KeyError):
        found["chin"]


def test_intervals_of_drops_vary_in_the_deviation_too() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.arange(40) % 2 == 0
    drops = _drops(
        scores=torch.where(present, 2.0, -2.0) + torch.randn(40, generator=generator),
        drops=torch.stack([torch.ones(40), torch.randn(40, generator=generator), torch.ones(40)]),
        present=present,
        visible=torch.stack([torch.ones(40), torch.ones(40), torch.arange(40) < 30]).bool(),
        weights=torch.where(present, 0.1, 0.9).double() / 20,
    )
    rng, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        rows = torch.from_numpy(rng.integers(0, 40, 40))
        scores, weights = drops.scores[rows].double(), drops.weights[rows]
        weights = weights / weights.sum()
        spread = (weights * (scores - (weights * scores).sum()) ** 2).sum().sqrt()
        counted = [rows[drops.counted(name)[rows]] for name in drops.names]
        means = [row[own].double().mean() for row, own in zip(drops.drops, counted, strict=True)]
        drawn.append(torch.stack(means) / spread)
    low, high = torch.stack(drawn).quantile(torch.tensor([0.025, 0.975]).double(), 0)
    found = drops.summarize().hidden
    assert [h.low for h in found] == pytest.approx(low.tolist())
    assert [h.high for h in found] == pytest.approx(high.tolist())
    # All images drop alike: what is not known is the deviation.
    assert found[0].bar is not None and found[0].bar[1] < found[0].bar[0] < found[0].bar[2]


def test_one_image_has_no_interval_and_what_is_cut_off_is_counted_by_model() -> None:
    found = _drops().summarize()
    assert (found["nose"].images, found["nose"].low, found["nose"].high) == (1, None, None)
    assert found["nose"].drop is not None
    assert f"| nose | {found['nose'].drop:.2f} |" in found.table().to_markdown()
    cut = _drops(visible=torch.tensor([[True] * 3, [True] * 3, [True] * 3])).summarize()
    assert "| nose hidden (n = 1, 2) |" in reliance_table({"a": found, "b": cut}).to_markdown()


def test_what_is_undefined_is_none() -> None:
    constant = _drops(scores=torch.tensor([0.3, 0.3, 0.3 + 1e-7])).summarize()
    assert constant.deviation == 0
    assert [(h.drop, h.low, h.change) for h in constant.hidden] == [(None, None, None)] * 3
    assert constant.share is None
    absent = _drops(present=torch.zeros(3, dtype=torch.bool)).summarize()
    assert (absent["mouth"].images, absent["mouth"].drop, absent.share) == (0, None, None)
    assert absent["mouth"].change is not None
    unseen = _drops(visible=torch.zeros(3, 3, dtype=torch.bool)).summarize()
    assert (unseen["nose"].images, unseen["nose"].drop, unseen["nose"].change) == (0, None, None)
    assert "–" in unseen.table().to_markdown()
    assert "–" in reliance_table({"one": unseen}).to_markdown()
    with pytest.raises(ValueError, match="cannot be compared"):
        reliance_table({"one": unseen, "two": _drops(fill="blur").summarize()})
    with pytest.raises(ValueError, match="no reliance"):
        reliance_table({})


def test_share_of_the_reliance() -> None:
    ones = np.ones(5)
    assert relied_share(3 * ones, ones).value == 0.75  # type: ignore[union-attr]
    assert relied_share(3 * ones[:1], ones[:1]) == Estimate(0.75, 0, 1)
    assert relied_share(-ones, ones).value == 0  # type: ignore[union-attr]
    assert relied_share(ones, -ones).value == 1  # type: ignore[union-attr]
    assert relied_share(-ones, -ones) is None
    assert relied_share(ones[:0], ones[:0]) is None


@pytest.mark.parametrize("fill", ["mean", "blur", "swap"])
def test_reliance_of_a_network_is_that_of_a_plain_loop(
    faces: PreparedFaces, checkpoint: Checkpoint, fill: str
) -> None:
    seen: list[tuple[int, int]] = []
    found = region_drops(
        checkpoint, faces, attribute="Lips", region="mouth", images=21, fill=fill, batch_size=5,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(5, 21), (10, 21), (15, 21), (20, 21), (21, 21)]
    assert found.names == ("mouth", "all but mouth", *(n for n in FACE_PARTS if n != "mouth"))
    rows = stratified_sample(faces.labels[:, 0], 21)
    samples = [faces[int(i)] for i in rows]
    images = checkpoint.preprocessing.normalize(
        torch.stack([torch.as_tensor(s["image"]) for s in samples])
    )
    landmarks = torch.stack([torch.as_tensor(s["landmarks"]) for s in samples]).numpy()
    mouth = torch.from_numpy(Region.parse("mouth").grid(landmarks, (32, 32), (32, 32)))
    nose = torch.from_numpy(Region.parse("nose").grid(landmarks, (32, 32), (32, 32)))
    with torch.no_grad():
        scores = checkpoint.model(images)[:, 0]
        for name, mask in [("mouth", mouth), ("all but mouth", 1 - mouth), ("nose", nose)]:
            drops = scores - checkpoint.model(hide(images, mask, fill))[:, 0]
            torch.testing.assert_close(found.drops[found.index(name)], drops, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.scores, scores)
    eyes = found.index("left_eye,right_eye")
    assert found.inside.tolist() == pytest.approx([1, 0, *[0] * (len(found.names) - 2)], abs=0.1)
    assert found.visible[eyes].all()
    assert found.present.equal(faces.labels[rows, 0] > 0.5)
    assert float(found.weights[found.present].sum()) == pytest.approx(
        float(faces.labels[:, 0].mean())
    )


def test_what_lies_in_the_guided_region_counts_where_both_are_seen(checkpoint: Checkpoint) -> None:
    # The other region is all of the guided one where that is seen, and large where it is not.
    regions = torch.zeros(4, 3, 32, 32)
    regions[0, 0, :8, :8] = regions[0, 1, :8, :8] = 1
    regions[1:3, 1] = 1
    regions[3, 0, :4] = 1
    regions[3, 2, 2:10] = 1
    batch = {"image": torch.rand(4, 3, 32, 32), "labels": torch.ones(4, 3), "regions": regions}
    found = region_drops(checkpoint, [batch], attribute="Lips", region=0, others=[1, 2])  # type: ignore[list-item]
    assert found.names == ("0", "all but 0", "1", "2")
    assert found.inside.tolist() == [1, 0, 1, 0.25]
    apart = region_drops(checkpoint, [batch], attribute="Lips", others=[1, 2], region=None)  # type: ignore[list-item]
    assert apart.inside.tolist() == [0, 0]
    nowhere = {k: v[1:3] for k, v in batch.items()}
    unseen = region_drops(checkpoint, [nowhere], attribute="Lips", region=0, others=[1])  # type: ignore[list-item]
    assert unseen.inside.tolist() == [0, 0, 0]


@pytest.mark.parametrize("fill", ["mean", "swap"])
def test_reliance_on_batches_of_classes_is_that_of_a_plain_loop(fill: str) -> None:
    torch.manual_seed(0)
    net = Checkpoint(TinyNet(3).train(), MODEL, ["a", "b", "c"], Preprocessing(32), exclusive=True)
    images, labels = torch.randn(9, 3, 32, 32), torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0])
    regions = torch.rand(9, 3, 32, 32)
    parts = (slice(0, 4), slice(4, 6))  # of the second batch only as many as are asked for
    batches = [
        {"image": images[rows], "labels": labels[rows], "regions": regions[rows]}
        for rows in (slice(0, 4), slice(4, 7), slice(7, 9))
    ]
    seen: list[int] = []
    found = region_drops(
        net, batches, attribute="own_class", region=2, others=[0], images=6, fill=fill,  # type: ignore[arg-type]
        progress=lambda done, _total: seen.append(done),
    )  # fmt: skip
    assert seen == [4, 6]
    assert net.model.training
    net.model.eval()

    def score(pixels: Tensor, rows: slice) -> Tensor:
        with torch.no_grad():
            return margins(net.model(pixels)).gather(1, labels[rows, None])[:, 0]

    for row, mask in enumerate((regions[:, 2], 1 - regions[:, 2], regions[:, 0])):
        drops = [
            score(images[rows], rows) - score(hide(images[rows], mask[rows], fill), rows)
            for rows in parts
        ]
        torch.testing.assert_close(found.drops[row], torch.cat(drops), atol=1e-5, rtol=1e-4)
    assert found.present.all()
    one = region_drops(net, batches, attribute="c", region=2, images=6)
    assert one.present.equal(labels[:6] == 2)


def test_scores_that_hiding_makes_infinite_are_refused(checkpoint: Checkpoint) -> None:
    class Contrast(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            spread = images.std((2, 3))
            return torch.where(spread < 1e-3, torch.inf, spread)

    net = replace(checkpoint, model=Contrast())
    batch = {"image": torch.rand(4, 3, 32, 32), "labels": torch.ones(4, 3)}
    whole = [{**batch, "regions": torch.ones(4, 1, 32, 32)}]
    with pytest.raises(ScoresNotFinite, match="the scores of 4 of 4 images"):
        region_drops(net, whole, attribute="Lips", others=[0])  # type: ignore[arg-type]


def test_the_share_is_over_the_images_that_show_the_region() -> None:
    visible = torch.tensor([[True, False, True], [True, False, True], [True] * 3])
    found = _drops(visible=visible).summarize()
    assert found.share is not None and found.share.value == pytest.approx(1 / (1 + 2))
    # A drop counts as a change, too, whichever its sign.
    assert found["nose"].change == pytest.approx((1 + 0.25 + 0.5) / found.deviation)


def test_a_score_of_one_part_relies_on_that_part(faces: PreparedFaces) -> None:
    # Faces differ by two pixels; the weight lies on what the region covers in all of them.
    region, weight = "nose,mouth,chin", torch.zeros(3, 3, 32, 32)
    points = torch.stack([torch.as_tensor(faces[i]["landmarks"]) for i in range(len(faces))])
    covered = Region.parse(region).grid(points.numpy(), (32, 32), (32, 32)).min(0) == 1
    assert covered.sum() > 5
    weight[0, 0] = torch.from_numpy(covered)
    model = Checkpoint(Linear(weight), MODEL, list(ATTRIBUTES), Preprocessing(32))
    found = reliance(model, faces, attribute="Lips", region=region)
    assert found.images == 60
    assert found[region].drop > 0.3  # type: ignore[operator]
    assert found[f"all but {region}"].drop == pytest.approx(0, abs=1e-5)
    assert found["forehead"].drop == pytest.approx(0, abs=1e-5)
    assert found.share.value == pytest.approx(1, abs=1e-4)  # type: ignore[union-attr]


def test_reliance_without_a_region_and_on_one_image(
    faces: PreparedFaces, checkpoint: Checkpoint
) -> None:
    found = reliance(checkpoint, faces, attribute="Lips", others=["left_eye,right_eye"], images=6)
    assert [h.name for h in found.hidden] == ["left_eye,right_eye"]
    assert (found.region, found.share) == (None, None)
    unprepared = reliance(
        checkpoint,
        faces.faces,
        attribute="Lips",
        others=["left_eye,right_eye"],
        images=6,
        workers=0,
    )
    assert unprepared == found
    single = reliance(checkpoint, faces, attribute="Lips", region="mouth", images=1)
    assert (single.images, single.deviation, single["mouth"].drop) == (1, 0, None)
    with pytest.raises(ValueError, match="two or more to swap"):
        reliance(checkpoint, faces, attribute="Lips", images=1, fill="swap")
    with pytest.raises(ValueError, match="others: expected one region or more"):
        reliance(checkpoint, faces, attribute="Lips", others=[])
    with pytest.raises(ValueError, match="fill: expected one of"):
        reliance(checkpoint, faces, attribute="Lips", fill="grey")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Lipps"):
        reliance(checkpoint, faces, attribute="Lipps")
