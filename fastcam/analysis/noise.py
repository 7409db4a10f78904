"""Accuracy under Gaussian noise for many transformations of the masks at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam._util.modules import evaluating
from fastcam._util.progress import Report
from fastcam._util.seeds import derive_seed
from fastcam.analysis.curves import Pair, check_pairs
from fastcam.analysis.subject import attention_network, batches
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint


@dataclass(frozen=True)
class NoiseAccuracy:
    """How many attributes of each image are judged right.

    Attributes:
        sigmas: S standard deviations of the noise.
        pairs: J pairs (n, β).
        right: share of the attributes that are judged right, float32 ``[S,J,N]``, image by image.
        majority: accuracy of always saying what is more frequent in these images.
    """

    sigmas: list[float]
    pairs: list[Pair]
    right: Tensor
    majority: float

    @property
    def accuracy(self) -> Tensor:
        """Mean over images and attributes, ``[S,J]``."""
        return self.right.double().mean(-1)


def add_noise(images: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """``images`` in [0,1] plus ``sigma``·``noise``, clipped to [0,1], as a camera would."""
    return (images + sigma * noise).clamp_(0, 1)


def image_noise(shape: Sequence[int], seed: int, index: Tensor) -> Tensor:
    """Standard normal noise ``[N,*shape]``; that of an image depends on seed and position alone.

    So every level and every (n, β) meets the same noise, scaled, whatever the batch size.
    """
    draws = [
        torch.randn(*shape, generator=torch.Generator().manual_seed(derive_seed(seed, int(i))))
        for i in index
    ]
    return torch.stack(draws)


def noise_accuracy(
    checkpoint: Checkpoint,
    faces: Prepared,
    pairs: Sequence[Pair],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: Report | None = None,
    what: str = "adding noise",
) -> NoiseAccuracy:
    """Judge noisy images with every (n, β); one forward pass for each noise level and batch.

    Noise is added to images in [0,1], before normalisation, and the sum is clipped to [0,1].

    Args:
        checkpoint: of an attention network.
        faces: images at its input size.
        pairs: (n, β), both >= 0.
        sigmas: standard deviations, >= 0.
        seed: of the noise.
        batch_size: images in one forward.
        device: where the network runs; None: where it is.
        progress: called with (what, done, total).
        what: the first of these.

    Raises:
        ValueError: another model, faces that do not fit it, pairs or sigmas out of range.
    """
    network, chosen = attention_network(checkpoint), check_pairs(pairs)
    levels = [float(s) for s in sigmas]
    if not levels or not all(0 <= s < math.inf for s in levels):
        raise ValueError(f"sigmas: expected at least one, finite and >= 0, got {levels}")
    ns, betas = ([p[i] for p in chosen] for i in (0, 1))
    parts, labels = [], []
    done = 0
    with (
        evaluating(network, device) as device,
        torch.no_grad(),
        network.transform(n=ns, beta=betas),
    ):
        for batch in batches(checkpoint, faces, batch_size):
            clean = batch["image"].float() / 255
            noise = image_noise(clean.shape[1:], seed, batch["index"])
            levels_right = []
            for sigma in levels:
                noisy = 255 * add_noise(clean, sigma, noise)
                logits = network(checkpoint.preprocessing.normalize(noisy.to(device))).cpu()
                levels_right.append(judged_right(logits, batch["labels"]).mean(-1))
                done += len(clean)
                if progress is not None:
                    progress(what, done, len(levels) * len(faces))
            parts.append(torch.stack(levels_right))
            labels.append(batch["labels"])
    shares = torch.cat(labels).mean(0)
    majority = float(torch.maximum(shares, 1 - shares).mean())
    return NoiseAccuracy(levels, chosen, torch.cat(parts, -1), majority)
