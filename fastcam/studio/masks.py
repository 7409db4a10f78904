"""The attention network on one image and on noise: what its page shows, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastcam import functional
from fastcam._util import checks as check
from fastcam._util.modules import evaluating
from fastcam.analysis import add_noise, mask_changes, noise_accuracy
from fastcam.analysis.noise import image_noise
from fastcam.analysis.subject import attention_network
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint

#: Noise levels of the accuracy curve.
SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
IDENTITY = (1.0, 0.0)
#: Channels that are shown.
TOP = 6
_SEED = 0


@dataclass(frozen=True)
class MaskView:
    """An attribute's masks in one image.

    Attributes:
        image: the noisy image, uint8 [S, S, 3].
        score: probability of the attribute, with the masks transformed.
        plain: the same with the masks as they were trained.
        channels: the channels that change the score most, largest first; or the one asked for.
        masks: [T, h, w], transformed, g(M) between 0 (or below, with β) and 1.
        changes: what each of their masks changes in the logit, as trained.
    """

    image: np.ndarray
    score: float
    plain: float
    channels: list[int]
    masks: np.ndarray
    changes: list[float]


def tone(n: float, beta: float) -> list[tuple[float, float]]:
    """The tone curve g(M; n, β)."""
    masks = torch.linspace(0, 1, 101, dtype=torch.float64)
    return list(zip(masks.tolist(), functional.tone_curve(masks, n, beta).tolist(), strict=True))


def mask_view(
    checkpoint: Checkpoint,
    faces: Prepared,
    row: int,
    attribute: str,
    *,
    n: float,
    beta: float,
    sigma: float,
    channel: int | None = None,
) -> MaskView:
    """The masks of an attribute in a noisy image.

    Args:
        checkpoint: of an attention network.
        faces: images at its size.
        row: which of them.
        attribute: its name.
        n, beta: of the transformation.
        sigma: of the noise, of images in [0, 1].
        channel: whose mask is shown alone; None shows those of the channels that matter most.

    Raises:
        ValueError: an unknown attribute, another network, or numbers out of range.
    """
    network = attention_network(checkpoint)
    target = faces.attribute(attribute)
    clean = faces[row]["image"].as_subclass(Tensor)[None].float() / 255
    noise = image_noise(clean.shape[1:], _SEED, torch.tensor([row]))
    noisy = 255 * add_noise(clean, sigma, noise)
    pixels = checkpoint.preprocessing.normalize(noisy)
    with evaluating(network, "cpu"), torch.no_grad():
        with network.transform(n=n, beta=beta):
            score = network(pixels)[0, target].sigmoid()
        plain = network(pixels)[0, target].sigmoid()
        changes = mask_changes(network, pixels, [target])[0, 0]
        if channel is None:
            channels = changes.abs().argsort(descending=True, stable=True)[:TOP]
        else:
            check.number("channel", channel, f"from 0 to {len(changes) - 1}",
                         lambda c: 0 <= c < len(changes))  # fmt: skip
            channels = torch.tensor([channel])
        masks = network.masks(pixels, [target])[0, 0, channels]
        shown = functional.tone_curve(masks, n, beta)
    return MaskView(
        noisy[0].round().to(torch.uint8).permute(1, 2, 0).numpy(),
        float(score),
        float(plain),
        channels.tolist(),
        shown.numpy(),
        changes[channels].tolist(),
    )


def noise_curves(
    checkpoint: Checkpoint, faces: Prepared, n: float, beta: float
) -> dict[str, list[tuple[float, float]]]:
    """Accuracy in percent by noise level, as trained and transformed; and always-the-majority's."""
    pairs = list(dict.fromkeys([IDENTITY, (n, beta)]))
    found = noise_accuracy(checkpoint, faces, pairs, SIGMAS, seed=_SEED)
    lines = {}
    for pair, column in zip(pairs, found.accuracy.T.tolist(), strict=True):
        name = "as trained" if pair == IDENTITY else "transformed"
        lines[name] = [(s, 100 * a) for s, a in zip(SIGMAS, column, strict=True)]
    lines["more frequent"] = [(s, 100 * found.majority) for s in SIGMAS]
    return lines
