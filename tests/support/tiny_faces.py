"""A tiny data set in CelebA's layout and a tiny network, for the tests of data and training."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from fastcam import models
from fastcam.regions import LandmarkTable, rectangles, template_landmarks

ATTRIBUTES = ("Lips", "Eyes", "Dark")
WIDTH, HEIGHT = 40, 48
MODEL = "tiny"


class TinyNet(nn.Module):
    """Two convolutions, a pooling, a dropout and two linear layers: 8×8 cells at 32 pixels."""

    def __init__(self, num_attributes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(4),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(12 * 16, 24), nn.ReLU(), nn.Linear(24, num_attributes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


models.register(
    MODEL,
    models.ModelSpec(TinyNet, "features.3", "features.4", logit_bias="classifier.3.bias"),
)


def write_faces(
    root: Path,
    count: int = 48,
    *,
    zipped: bool = False,
    newline: str = "\n",
    landmarks: bool = True,
    seed: int = 0,
) -> Path:
    """Grey noise with a red mouth (Lips), blue eyes (Eyes) or little light (Dark).

    Lips and Eyes agree in three images of four. The first half is the training split, then a
    quarter each for validation and test.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    lips = rng.random(count) < 0.5
    eyes = np.where(rng.random(count) < 0.75, lips, ~lips)
    labels = np.stack([lips, eyes, rng.random(count) < 0.3], 1)
    points = np.stack([template_landmarks(WIDTH, HEIGHT)] * count)
    points = points + rng.uniform(-2, 2, (count, 1, 2)).astype(np.float32)
    boxes = rectangles(points)
    files = {}
    for i, name in enumerate(names):
        pixels = rng.integers(90, 170, (HEIGHT, WIDTH, 3))
        if labels[i, 0]:
            _paint(pixels, boxes[i, 8], (230, 20, 40))
        if labels[i, 1]:
            _paint(pixels, boxes[i, 3], (20, 40, 230))
            _paint(pixels, boxes[i, 4], (20, 40, 230))
        if labels[i, 2]:
            pixels = pixels // 2
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
        files[name] = buffer.getvalue()
    if zipped:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"img_align_celeba/{name}", data)
    else:
        (root / "img_align_celeba").mkdir(exist_ok=True)
        for name, data in files.items():
            (root / "img_align_celeba" / name).write_bytes(data)
    rows = [
        f"{n} " + " ".join("1" if v else "-1" for v in r)
        for n, r in zip(names, labels, strict=True)
    ]
    _write(root / "list_attr_celeba.txt", [str(count), " ".join(ATTRIBUTES), *rows], newline)
    splits = [0 if i < count // 2 else 1 if i < count * 3 // 4 else 2 for i in range(count)]
    partition = [f"{n} {s}" for n, s in zip(names, splits, strict=True)]
    _write(root / "list_eval_partition.txt", partition, newline)
    if landmarks:
        LandmarkTable(
            np.array(names),
            points.astype(np.float32),
            np.full(count, 3, np.uint8),
            np.tile(np.array([WIDTH, HEIGHT], np.int32), (count, 1)),
        ).save(root / "landmarks68.npz")
    return root


def _paint(pixels: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = np.round(box).astype(int)
    pixels[max(y0, 0) : y1, max(x0, 0) : x1] = color


def _write(path: Path, lines: list[str], newline: str) -> None:
    path.write_bytes(newline.join([*lines, ""]).encode())
