"""Train the attention network with noise, and see what changing its masks gains beside that.

    python examples/noise.py celeba runs/noise

Kimura and Tanaka make a trained network robust to noise by changing its masks, without retraining.
Here one network is trained on images as they are, another on noisy ones (σ drawn for each image,
up to ``--sigma``), both from one loader of our own, in the same order and with the same weights to
begin with; then both are judged on noisy test images with the masks as they are and changed.

The data are faces in CelebA's layout; `fastcam synth` draws some. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastcam import analysis
from fastcam._util.files import write_text
from fastcam._util.progress import progress_bars
from fastcam._util.seeds import derive_seed
from fastcam.data import CelebA, PreparedFaces
from fastcam.data.batches import Batch
from fastcam.models import load_checkpoint
from fastcam.report import Table
from fastcam.report.numbers import percent, points, points_range
from fastcam.training import Batches, TrainConfig, keep_freed_memory, train


class Noisy(Dataset[Batch]):
    """Images, half of them mirrored, with noise of a strength of their own; anew in each epoch."""

    def __init__(self, images: PreparedFaces, sigma: float, seed: int = 0) -> None:
        self.images, self.sigma, self.seed = images, sigma, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        draws = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, index))
        sample = self.images[index]
        image: Tensor = sample["image"]
        flip, strength = torch.rand(2, generator=draws).tolist()
        if flip < 0.5:
            image = image.flip(-1)
        if self.sigma > 0:
            noise = torch.randn(image.shape, generator=draws)
            noisy = image / 255 + self.sigma * strength * noise
            image = (255 * noisy.clamp(0, 1)).round().byte()
        return {"image": image, "labels": sample["labels"]}


class Epochs:
    """A loader whose images are drawn anew in each pass."""

    def __init__(self, images: Noisy, batch_size: int) -> None:
        order = torch.Generator().manual_seed(images.seed)
        self.images = images
        self.loader = DataLoader(images, batch_size, shuffle=True, generator=order, drop_last=True)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.loader
        self.images.epoch += 1


def main(
    data: Path,
    out: Path,
    sigma: float = 0.5,
    epochs: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Table:
    """Train both networks in ``out``, judge them, and print what :func:`rows` say.

    Args:
        data: a folder of faces.
        out: where the runs go.
        sigma: of the noise in training, at most, of images in [0, 1].
        epochs: passes; None: as ``fastcam train``.
        limit: only so many images of each split.
        seed: of weights, order and noise.
    """
    changes: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    config = TrainConfig.from_scratch(model="attention", fit="face", seed=seed, **changes)
    assert config.size is not None
    table = Table(["trained with", "n, β"], [])
    with progress_bars() as report:
        parts = {}
        for split in ("train", "valid", "test"):
            faces = CelebA(data, split, regions=False)
            some = None if limit is None else range(min(limit, len(faces)))
            parts[split] = PreparedFaces(faces, config.size, fit="face", indices=some)
        for name, strongest in (("clean images", 0.0), ("noisy images", sigma)):
            batches = Batches(
                Epochs(Noisy(parts["train"], strongest, seed), config.batch_size),
                DataLoader(parts["valid"], 64),
                parts["train"].attributes,
            )
            made = train(config, out / name.split()[0], data=batches, progress=report)
            found = analysis.robustness(
                load_checkpoint(made.checkpoint), parts["test"], parts["valid"],
                progress=report,
            )  # fmt: skip
            table.header[2:] = [*(f"σ = {s:g}" for s in found.test.sigmas), "mean"]
            table.rows.extend(rows(name, found))
    write_text(out / "noise.md", table.to_markdown())
    print(table.to_markdown())
    return table


def rows(name: str, found: analysis.Robustness) -> list[list[str]]:
    """Accuracy at each strength with the masks as they are; what the (n, β) gains, in points, that
    is best on validation images among those that use the masks (n > 0), and among all."""
    best = found.search
    assert best is not None
    accuracies = [*best.baseline, sum(best.baseline) / len(best.baseline)]
    found_rows = [[name, "1, 0", *(percent(value, 1) for value in accuracies)]]
    for picked in filter(None, (found.masked, best)):
        gains = [a - b for a, b in zip(picked.accuracy, picked.baseline, strict=True)]
        n, beta = picked.pair
        mean = f"{points(picked.mean_difference)} ({points_range(*picked.mean_interval)})"
        found_rows.append(["", f"{n:g}, {beta:g}", *map(points, gains), mean])
    return found_rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of faces in CelebA's layout")
    parser.add_argument("out", type=Path, help="where the runs go")
    parser.add_argument("--sigma", type=float, default=0.5, help="of the noise, at most (0.5)")
    parser.add_argument("--epochs", type=int, help="passes (as fastcam train)")
    parser.add_argument("--limit", type=int, help="only so many images of each split")
    parser.add_argument("--seed", type=int, default=0)
    keep_freed_memory()
    main(**vars(parser.parse_args()))
