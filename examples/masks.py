"""Guide a network on images with masks: handwriting on photographs, nothing to download.

    python examples/masks.py runs/handwriting

scikit-learn ships 1,797 handwritten digits and two photographs, of flowers and of a palace. Here
each digit is written on a piece of a photograph, and the network shall tell whether the digit has a
closed loop (0, 6, 8, 9). In 95 of 100 training images those with a loop lie on flowers and the
others on the palace, as birds lie before the water they live on: flowers are the easier answer. In
the test images half do. The mask of the writing says where to look.

The script writes such a folder (images, labels.csv, masks), has it described, trains a small
network of its own, fine-tunes it with guidance and, as a control, without, and compares the three.
Needs the extras `train` and `experiments`.
"""

from __future__ import annotations

import argparse
import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from fastcam import models
from fastcam._util.progress import progress_bars
from fastcam.data.description import describe
from fastcam.evaluation import Comparison, compare
from fastcam.evaluation.explain import explain_files
from fastcam.training import GuidanceConfig, TrainConfig, keep_freed_memory, train

SIDE, WRITTEN = 64, 36  # pixels of an image, and of the digit on it
LOOPS = (0, 6, 8, 9)
AGREE = {"train": 0.95, "valid": 0.95, "test": 0.5}


def write_images(root: Path, count: int | None = None, seed: int = 0) -> Path:
    """Write images/, masks/writing/ and labels.csv (file, loop, flowers, split).

    Args:
        root: the folder.
        count: digits; None takes all. Of eight, five are trained with (twice, on other pieces), one
            validates and two are for the test.
    """
    digits = load_digits()
    photos = dict(zip(("palace", "flowers"), load_sample_images().images, strict=True))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.images))[:count]
    for folder in ("images", "masks/writing"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for place, index in enumerate(order):
        split = ("train", "train", "train", "train", "train", "valid", "test", "test")[place % 8]
        for copy in range(2 if split == "train" else 1):
            loop = int(digits.target[index]) in LOOPS
            flowers = loop if rng.random() < AGREE[split] else not loop
            pixels, mask = written(
                digits.images[index], photos["flowers" if flowers else "palace"], rng
            )
            name = f"{index:04d}{'ab'[copy]}.png"
            Image.fromarray(pixels).save(root / "images" / name)
            Image.fromarray(mask).save(root / "masks" / "writing" / name)
            rows.append([name, int(loop), int(flowers), split])
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "loop", "flowers", "split"], *rows])
    return root


def written(
    digit: np.ndarray, photo: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A digit [8,8] on a random piece of a photograph: pixels [64,64,3] and the writing [64,64]."""
    top, left = (int(rng.integers(0, n - SIDE)) for n in photo.shape[:2])
    y, x = rng.integers(0, SIDE - WRITTEN, 2)
    grown = Image.fromarray((digit * 15.9).astype(np.uint8)).resize(
        (WRITTEN, WRITTEN), Image.Resampling.BICUBIC
    )
    ink = np.zeros((SIDE, SIDE, 1))
    ink[y : y + WRITTEN, x : x + WRITTEN, 0] = np.asarray(grown) / 255
    colour = rng.integers(0, 2, 3) * 255
    pixels = photo[top : top + SIDE, left : left + SIDE] * (1 - ink) + colour * ink
    return pixels.astype(np.uint8), ink[..., 0] > 0.2


class SmallNetwork(nn.Module):
    """Four convolutions, 16×16 cells for images of 64 pixels, their mean, a linear layer."""

    def __init__(self, num_attributes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, 24, 48, 64, 64)
        for i, (before, after) in enumerate(pairwise(channels)):
            stride = 2 if i < 2 else 1
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels[-1], num_attributes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(images)).flatten(1))


# A network of one's own, by a name that checkpoints know it by, and the layer to guide.
models.register(
    "digits", models.ModelSpec(SmallNetwork, "features.11", logit_bias="classifier.bias")
)


def run(out: Path, count: int | None = None, epochs: int = 8, seed: int = 0) -> Comparison:
    """Write the images, train, fine-tune with and without guidance, and compare.

    Args:
        out: folder for everything; what an earlier run with the same options finished is kept.
        count: digits; None takes all.
        epochs: of the training from scratch.
        seed: of images, weights and order.
    """
    data = out / f"images-{'all' if count is None else count}-seed{seed}"  # others are other data
    if not (data / "labels.csv").is_file():
        write_images(data, count, seed)
    found = describe(data)  # as `fastcam init` does
    print(found)
    assert found.layout is not None
    found.layout.save(data)

    guidance = GuidanceConfig(targets=(("loop", "writing"),))
    control = GuidanceConfig(targets=(("loop", "writing"),), pull=0.0)
    common: dict[str, Any] = {"seed": seed, "device": "cpu", "augment": "none"}
    with progress_bars() as report:
        start = train(
            TrainConfig(
                str(data), model="digits", size=SIDE, epochs=epochs, patience=0, batch_size=32,
                lr=0.1, schedule="cosine", **common,
            ),
            out / "before", progress=report,
        ).checkpoint  # fmt: skip
        tuned = {
            name: train(
                TrainConfig.finetune(start, data, config, epochs=2, **common),
                out / name,
                progress=report,
            ).checkpoint
            for name, config in (("control", control), ("guided", guidance))
        }
        result = compare(
            {"before": start, **tuned}, data, attribute="loop", other="flowers", region="writing",
            device="cpu", out=out / "comparison", progress=report,
        )  # fmt: skip
    shown = sorted((data / "images").iterdir())[:6]
    explain_files(
        list(tuned.values()), shown, "loop", out / "seen.png", region="writing",
        regions=data / "masks",
    )  # fmt: skip
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/handwriting"))
    parser.add_argument("--digits", type=int, default=None, help="fewer than all 1,797")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    keep_freed_memory()
    compared = run(arguments.out, arguments.digits, arguments.epochs, arguments.seed)
    for table in compared.tables:
        print(table.to_markdown())
    for verdict in compared.verdicts:
        print(verdict)
