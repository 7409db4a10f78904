"""A shortcut in training images, and which losses keep a network from taking it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from textwrap import fill
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchvision import tv_tensors

from fastcam import (
    ActivationTap,
    Balance,
    InputGradientLoss,
    __version__,
    functional,
    grad_cam_maps,
)
from fastcam._util.files import json_with, read_json, write_json
from fastcam.data import RegionCutout
from fastcam.evaluation import pick_device
from fastcam.evaluation.cam_maps import energy_share
from fastcam.experiments.arms import CONTROL
from fastcam.experiments.decoy_images import (
    CLASSES,
    LabelledImages,
    framed,
    inside,
    labelled_images,
    with_decoys,
)
from fastcam.experiments.study import Study
from fastcam.experiments.tables import change_table, network_table
from fastcam.losses import CAM_LOSSES
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure

CLEAN = "no decoys in training"
INPUT_GRADIENT = "input gradient"
CUT_OUT = "cut-out"
ARMS = (CONTROL, *CAM_LOSSES, INPUT_GRADIENT, CUT_OUT, CLEAN)
#: What is measured; "follows" is how often the answer is what a decoy of another class says.
RANDOM, OWN, NONE, FOLLOWS, ENERGY = (
    "random decoys", "own decoys", "no decoys", "follows decoy", "energy inside"
)  # fmt: skip
COLUMNS = (RANDOM, OWN, NONE, FOLLOWS, ENERGY)
# Fixed: of a ReLU network's log-probabilities Balance would have to look through batch norm.
_INPUT_GRADIENT_WEIGHT = 10.0
_BATCH, _LR = 32, 0.01
_KEYS = ("settings", "numbers", "map")


class PatchNet(nn.Module):
    """Patches of 8×8 pixels, one a cell of 4×4, classified and averaged over all cells.

    A cell sees 2 pixels beyond its own, so that in a Grad-CAM of the last layer of ``features``
    decoy and image lie in cells of their own. Logits [N,10] from [N,1,H,H], H a multiple of 4.
    """

    layer = "features.5"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 40, 8, stride=4, padding=2), nn.BatchNorm2d(40), nn.ReLU(),
            nn.Conv2d(40, 64, 1), nn.BatchNorm2d(64), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.flat(self.pool(self.features(images))))


@dataclass(frozen=True)
class Decoy:
    """The networks on test images whose decoys say what they say.

    Attributes:
        images: name of the data.
        trained_on, tested_on: how many images.
        numbers: by network, what is measured, in each training.
        maps: by network, the mean Grad-CAM [H,W] of the true class in the first training.
    """

    images: str
    trained_on: int
    tested_on: int
    numbers: Mapping[str, Sequence[Mapping[str, float]]]
    maps: Mapping[str, list[list[float]]]

    def tables(self) -> list[Table]:
        title = (
            f"{self.images}, {self.trained_on} training images whose decoys tell the class; "
            f"accuracy on {self.tested_on} test images"
        )
        return [
            network_table(self.numbers, title, names=COLUMNS),
            change_table(self.numbers, "minus the control, points", COLUMNS),
        ]

    def figure(self) -> Figure:
        """Where each network looks on average, and how often it is right."""
        figure = new_figure(9.5, 5.2)
        rows: Any = figure.subfigures(2, 1, height_ratios=(1, 1.9))
        names = list(self.numbers)
        words = [fill(name, 14) for name in names]
        for axis, name, text in zip(rows[0].subplots(1, len(names)), names, words, strict=True):
            axis.imshow(self.maps[name], cmap="magma", vmin=0)
            axis.set_title(text, fontsize=7)
            axis.axis("off")
        axis = rows[1].subplots()
        for i, (column, color) in enumerate(zip((RANDOM, OWN, ENERGY), COLORS, strict=False)):
            heights = [100 * fmean(m[column] for m in self.numbers[name]) for name in names]
            places = [k + 0.27 * (i - 1) for k in range(len(names))]
            axis.bar(places, heights, 0.27, label=column, color=color)
        axis.set_xticks(range(len(names)), words, fontsize=7)
        axis.set_ylabel("accuracy; share of the Grad-CAM; %")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        return figure

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images, "trained_on": self.trained_on, "tested_on": self.tested_on,
            "networks": {name: list(values) for name, values in self.numbers.items()},
            "maps": dict(self.maps),
        }  # fmt: skip


def decoy(study: Study) -> Decoy:
    """Train a network with each loss on images with decoys, and judge it where these mislead.

    The images are Fashion-MNIST where Debian's package is installed, else scikit-learn's digits;
    of the settings only seeds and device matter.
    """
    images = labelled_images()
    device = pick_device(study.config.device)
    numbers: dict[str, list[Any]] = {}
    maps: dict[str, Any] = {}
    for seed in range(study.config.seeds):
        for name in ARMS:
            path = study.out / f"seed{seed}" / "decoy" / f"{name.replace(' ', '_')}.json"
            settings = {"images": images.name, "seed": seed, "version": __version__}
            found = read_json(path, "decoy's numbers", _KEYS) if path.is_file() else {}
            if found.get("settings") != settings:
                study.say(f"seed {seed}, decoys in {images.name}: {name}")
                model = train_network(name, images, seed=seed, device=device)
                measured, mean_map = judge_network(model, images, device=device)
                found = {"settings": settings, "numbers": measured, "map": mean_map.tolist()}
                write_json(path, found, ours=json_with(*_KEYS))
            numbers.setdefault(name, []).append(found["numbers"])
            maps.setdefault(name, found["map"])
            if study.progress is not None:
                study.progress("training networks", ARMS.index(name) + 1, len(ARMS))
    return Decoy(images.name, len(images.train), len(images.test), numbers, maps)


def train_network(
    name: str, images: LabelledImages, *, seed: int = 0, device: str | torch.device = "cpu"
) -> PatchNet:
    """A network trained on decoys that tell the class.

    The map losses draw, balanced with pull 1, the margins' Grad-CAM into the image: what speaks for
    the true class, and what speaks against each other one. A decoy may do either.

    Args:
        name: of ``ARMS``: a loss, or what stands in its place.
        images: without decoys.
        seed: of weights, decoys and order.
        device: where to compute.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = name == CLEAN
    shown = framed(images.train) if plain else with_decoys(
        images.train, images.train_labels, generator
    )  # fmt: skip
    labels = images.train_labels
    region = inside(shown.shape[-1])
    cutout = RegionCutout(outside=True) if name == CUT_OUT else None
    steps = images.epochs * -(-len(shown) // _BATCH)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PatchNet().to(device)
        loss_of = _loss(name, model, region.to(device))
        optimizer = torch.optim.Adam(model.parameters(), _LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(images.epochs):
            for rows in torch.randperm(len(shown), generator=generator).split(_BATCH):
                batch = shown[rows]
                if cutout is not None:
                    mask = tv_tensors.Mask(region)
                    batch = torch.stack([cutout(tv_tensors.Image(x), mask)[0] for x in batch])
                loss = loss_of(batch.to(device), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _loss(name: str, model: PatchNet, region: Tensor) -> Any:
    """From (images, labels) to what is minimised."""
    if name in CAM_LOSSES:
        criterion: Any = {**CAM_LOSSES}[name]()
        return partial(_guided, ActivationTap(model, model.layer), criterion, Balance(), region)
    if name == INPUT_GRADIENT:
        return partial(_input_gradient, model, InputGradientLoss(), region)
    return lambda images, labels: nnf.cross_entropy(model(images), labels)


def _guided(
    tap: ActivationTap, criterion: Any, balance: Balance, region: Tensor, images: Tensor,
    labels: Tensor,
) -> Tensor:  # fmt: skip
    with tap:
        logits = tap.model(images)
        shape = len(images), CLASSES, *tap.activations.shape[-2:]
        cells = nnf.adaptive_avg_pool2d(region[None, None], shape[2:])
        signs = 2.0 * nnf.one_hot(labels, CLASSES) - 1
        guidance = criterion(functional.margins(logits), tap, cells.expand(shape), signs=signs)
        return balance(nnf.cross_entropy(logits, labels), guidance, tap)


def _input_gradient(
    model: nn.Module, criterion: Any, region: Tensor, images: Tensor, labels: Tensor
) -> Tensor:
    """Ross et al., equation 1: of the sum of the log-probabilities."""
    images.requires_grad_()
    logits = model(images)
    scores = logits.log_softmax(1).sum(1, keepdim=True)
    penalty = criterion(scores, images, region.expand(len(images), -1, -1), targets=0)
    return nnf.cross_entropy(logits, labels) + _INPUT_GRADIENT_WEIGHT * penalty


def judge_network(
    model: PatchNet, images: LabelledImages, *, device: str | torch.device = "cpu"
) -> tuple[dict[str, float], Tensor]:
    """What a network does on test images by what their decoys say.

    Returns:
        The numbers of ``COLUMNS``, shares; and the mean of the true classes' Grad-CAM [H,W] on the
        images with random decoys.
    """
    generator = torch.Generator().manual_seed(len(images.test))  # the same for all networks
    labels = images.test_labels
    said = torch.randint(CLASSES, labels.shape, generator=generator)
    shown = {
        RANDOM: with_decoys(images.test, said, generator),
        OWN: with_decoys(images.test, labels, generator),
        NONE: framed(images.test),
    }
    with torch.no_grad():
        answers = {k: model(v.to(device)).argmax(1).cpu() for k, v in shown.items()}
    found = {k: float((answer == labels).float().mean()) for k, answer in answers.items()}
    misled = answers[RANDOM][said != labels] == said[said != labels]
    found[FOLLOWS] = float(misled.float().mean())
    with ActivationTap(model, model.layer) as tap:
        scores = functional.margins(model(shown[RANDOM].to(device)))
        maps = grad_cam_maps(scores, tap, labels[:, None].to(device)).detach().cpu()
    region = inside(shown[RANDOM].shape[-1])[None, None]
    cells = nnf.adaptive_avg_pool2d(region, (maps.shape[-2], maps.shape[-1])).expand(maps.shape)
    found[ENERGY] = float(energy_share(maps, cells).nanmean())
    return found, maps.mean((0, 1))
