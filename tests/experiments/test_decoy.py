"""Decoys where they belong; losses that keep a network from them, beside a control."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from fastcam.experiments import ExperimentConfig, decoy, run
from fastcam.experiments.arms import CONTROL
from fastcam.experiments.decoy import ARMS, CUT_OUT, ENERGY, FOLLOWS, OWN, RANDOM, PatchNet
from fastcam.experiments.decoy_images import (
    CORNERS,
    FRAME,
    PATCH,
    LabelledImages,
    inside,
    labelled_images,
    with_decoys,
)

NOWHERE = Path("nowhere")


def test_patches_lie_in_some_corners_and_tell_the_class() -> None:
    classes = torch.arange(10).repeat(20)
    images = torch.full((200, 1, 24, 24), 0.5)
    shown = with_decoys(images, classes, torch.Generator().manual_seed(0))
    assert torch.equal(shown[:, :, FRAME:-FRAME, FRAME:-FRAME], images)
    ends = (slice(0, PATCH), slice(-PATCH, None))
    patches = torch.stack([shown[:, 0, r, c] for r in ends for c in ends], 1)  # [200,4,4,4]
    greys = patches.amax((2, 3))
    assert torch.equal(greys, patches.amin((2, 3)))
    assert ((greys > 0).sum(1) == CORNERS).all()
    assert (greys > 0).float().mean(0).min() > 0.3  # any corner
    assert torch.equal((greys.amax(1) * 10).long(), classes)
    assert shown[0, 0].count_nonzero() == 24 * 24 + CORNERS * PATCH**2


def test_no_cell_inside_sees_a_patch_and_no_patch_cell_the_image() -> None:
    model = PatchNet().eval()
    image = torch.rand(1, 1, 40, 40, requires_grad=True)
    cells = model.features(image).sum(1)[0]
    region = inside(40)
    (of_inside,) = torch.autograd.grad(cells[2:-2, 2:-2].sum(), image, retain_graph=True)
    seen = of_inside[0, 0] != 0
    assert seen[FRAME:-FRAME, FRAME:-FRAME].all()
    assert not seen[:PATCH].any() and not seen[:, -PATCH:].any()
    (of_corner,) = torch.autograd.grad(cells[0, 0], image)
    assert not (of_corner[0, 0] * region).any()
    assert region.sum() == 24**2


def test_files_of_fashion_mnist_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        for kind, data in (("images-idx3", pixels), ("labels-idx1", np.arange(12) % 10)):
            head = bytes([0, 0, 8, data.ndim]) + np.array(data.shape, ">u4").tobytes()
            with gzip.open(tmp_path / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + data.astype(np.uint8).tobytes())
    found = labelled_images(tmp_path)
    assert found.name == "Fashion-MNIST"
    np.testing.assert_array_equal((255 * found.train[:, 0]).round().numpy(), pixels)
    assert found.test_labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(head)
    with pytest.raises(ValueError, match="t10k-images.*expected an IDX file"):
        labelled_images(tmp_path)


@pytest.mark.slow
def test_what_repairs_the_shortcut_and_what_lessens_it() -> None:
    """On digits, with the settings of the experiment; of l1, ppce and the input gradient see
    docs/results.md."""
    images = labelled_images(NOWHERE)
    assert (len(images.train), len(images.test)) == (1200, 597)
    repairing, lessening = ("energy", "outside"), ("iou", "center", CUT_OUT)
    found = {}
    for name in (CONTROL, *repairing, *lessening):
        found[name], _ = decoy.judge_network(decoy.train_network(name, images), images)
    control = found[CONTROL]
    followed = control[OWN] - control[RANDOM]
    assert followed > 0.2  # it takes the shortcut
    for name in repairing:
        assert found[name][RANDOM] > control[RANDOM] + 0.15, name
        assert found[name][OWN] - found[name][RANDOM] < 0.1, name
        assert found[name][ENERGY] > control[ENERGY] + 0.08, name
    for name in lessening:
        assert found[name][RANDOM] > control[RANDOM] + 0.08, name
        assert found[name][OWN] - found[name][RANDOM] < 0.7 * followed, name
        assert found[name][FOLLOWS] < 0.75 * control[FOLLOWS], name


def test_the_experiment_holds_every_network_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoy, "labelled_images", lambda: _few(labelled_images(NOWHERE)))
    config = ExperimentConfig(seeds=2, device="cpu")
    kept, trained = decoy.train_network, []

    def stops(name: str, *more: object, **options: object) -> PatchNet:
        if len(trained) == 13:
            raise KeyboardInterrupt
        trained.append(name)
        return kept(name, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(decoy, "train_network", stops)
    with pytest.raises(KeyboardInterrupt):
        run("decoy", tmp_path, config, say=lambda _: None)
    trained.append("once more")
    saved = run("decoy", tmp_path, config, say=lambda _: None)
    trained.remove("once more")
    assert trained == [*ARMS, *ARMS]
    networks, changes = saved.tables
    assert [row[0] for row in networks.rows] == list(ARMS)
    assert networks.header[1:] == list(decoy.COLUMNS)
    assert [row[0] for row in changes.rows] == [n for n in ARMS if n != CONTROL]
    values = saved.values["networks"]["energy"]
    assert len(values) == 2 and values[0] != values[1]
    assert matplotlib.image.imread(tmp_path / "decoy.png").std() > 0.01
    assert (tmp_path / "decoy.csv").read_text().startswith("table,network,random decoys")


def _few(images: LabelledImages) -> LabelledImages:
    return replace(
        images, train=images.train[:40], train_labels=images.train_labels[:40],
        test=images.test[:40], test_labels=images.test_labels[:40], epochs=1,
    )  # fmt: skip
