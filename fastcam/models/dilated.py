"""A dilated feature extractor, and the decoder that undoes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fastcam.ops import checks as check

NORMS = ("batch", "group", "none")


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    if kind == "group":
        return [nn.GroupNorm(math.gcd(8, channels), channels)]
    return []


def _layer(
    inputs: int, outputs: int, norm: str, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """3×3 convolution, normalisation, ReLU."""
    convolution = nn.Conv2d(
        inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=norm == "none"
    )
    return nn.Sequential(convolution, *_norm(norm, outputs), nn.ReLU())


def widths(channels: int, stride: int) -> list[int]:
    """Channels of the strided layers, doubling up to ``channels``."""
    halvings = stride.bit_length() - 1
    return [max(channels >> i, 1) for i in reversed(range(halvings))]


def dilated_features(
    channels: int, stride: int = 8, dilations: Sequence[int] = (1, 2, 4), norm: str = "batch"
) -> nn.Sequential:
    """Feature extractor in the manner of Yu and Koltun: strides first, then dilation instead.

    log2(stride) strided 3×3 convolutions whose width doubles up to ``channels``, then one 3×3
    convolution for each dilation at that width and resolution; each is followed by a normalisation
    and a ReLU.

    Args:
        channels: C, width of the output.
        stride: pixels per cell, a power of two.
        dilations: of the layers at full width.
        norm: ``"batch"``, ``"group"`` (of 8 groups) or ``"none"``.

    Returns:
        A module from ``[N,3,H,W]`` to non-negative ``[N,C,⌈H/stride⌉,⌈W/stride⌉]``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check.whole("channels", channels, 1)
    check.whole("stride", stride, 2)
    if stride & (stride - 1):
        raise ValueError(f"stride: expected a power of two, got {stride}")
    if isinstance(dilations, str) or not isinstance(dilations, Sequence):
        raise TypeError(f"dilations: expected a sequence of integers, got {dilations!r}")
    for dilation in dilations:
        check.whole("dilations", dilation, 1)
    check.one_of("norm", norm, NORMS)
    steps = [3, *widths(channels, stride)]
    layers = [_layer(a, b, norm, stride=2) for a, b in pairwise(steps)]
    layers += [_layer(channels, channels, norm, dilation=d) for d in dilations]
    return nn.Sequential(*layers)


class Reconstructor(nn.Module):
    """Images from features: each strided layer of :func:`dilated_features` undone.

    Nearest-neighbour upsampling by 2 and a 3×3 convolution for each halving, then a 3×3 convolution
    to three channels without a bound on its values.

    Args:
        channels, stride, norm: as of the feature extractor.
    """

    def __init__(self, channels: int, stride: int = 8, norm: str = "batch") -> None:
        super().__init__()
        down = widths(channels, stride)
        steps = [*reversed(down), down[0]]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(steps):
            layers += [nn.Upsample(scale_factor=2), _layer(inputs, outputs, norm)]
        self.layers = nn.Sequential(*layers)
        self.image = nn.Conv2d(steps[-1], 3, 3, padding=1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """``[N,3,H,W]`` of ``size`` (H, W), from ``[N,C,⌈H/stride⌉,⌈W/stride⌉]``."""
        images = self.image(self.layers(features))
        return images[..., : size[0], : size[1]]
