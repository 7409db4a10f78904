"""A small attention network, and a plain twin of it and of its loss."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fastcam import reference
from fastcam.losses.attention import AttentionOutputs
from fastcam.models import AttentionNetwork

N, K, C = 3, 4, 6
SMALL: dict[str, Any] = {"stride": 4, "dilations": (1, 2)}


def small_network(dtype: torch.dtype = torch.float64, **options: Any) -> AttentionNetwork:
    """Small, with weights large enough that masks and logits are far from their start."""
    network = AttentionNetwork(K, C, **{**SMALL, **options}).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def batch(size: tuple[int, int] = (18, 13), dtype: torch.dtype = torch.float64) -> Any:
    images = torch.randn(N, 3, *size, dtype=dtype)
    return images, (torch.rand(N, K) < 0.5).to(dtype)


def plain_features(network: AttentionNetwork, images: Tensor) -> Tensor:
    """f_f by hand: strides 2, 2, then dilations 1, 2; batch statistics in training mode."""
    x = images
    for (conv, norm, _), (stride, dilation) in zip(
        network.features, [(2, 1), (2, 1), (1, 1), (1, 2)], strict=True
    ):
        x = nnf.conv2d(x, conv.weight, None, stride, dilation, dilation)
        mean, var = norm.running_mean, norm.running_var
        if network.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
        x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    return x


def plain_mask(network: AttentionNetwork, f: Tensor, k: int) -> Tensor:
    """M^k [N,C,h,w]: a layer for each attribute, two with mask_hidden."""
    for conv in filter(None, (network.masks_hidden, network.masks_conv)):
        if conv is network.masks_conv and network.masks_hidden is not None:
            f = f.relu()
        rows = slice(k * conv.out_channels // K, (k + 1) * conv.out_channels // K)
        weight, bias = conv.weight[rows, :, 0, 0], conv.bias[rows]
        f = torch.einsum("oc,nchw->nohw", weight, f) + bias[:, None, None]
    return f.sigmoid()


def plain_classifier(network: AttentionNetwork, attended: Tensor, k: int) -> Tensor:
    """Logit k [N] from [N,C]."""
    binary = network.binary
    if binary.hidden_weight is not None:
        attended = (attended @ binary.hidden_weight[k].T + binary.hidden_bias[k]).relu()
    return attended @ binary.weight[k] + binary.bias[k]


def plain_outputs(network: AttentionNetwork, images: Tensor, n: float, beta: float) -> Any:
    """Every part by hand, with all masks held: Kimura & Tanaka, eq. 2, 4, 7, 8, 9."""
    f = plain_features(network, images)
    masks = torch.stack([plain_mask(network, f, k) for k in range(K)], 1)
    attended = (1 + reference.tone_curve(masks, n, beta)) * f[:, None]
    binary = [plain_classifier(network, attended[:, k].mean((-2, -1)), k) for k in range(K)]
    hidden, last = network.multilabel[2], network.multilabel[4]
    multilabel = nnf.linear(
        nnf.linear(f.mean((-2, -1)), hidden.weight, hidden.bias).relu(), last.weight, last.bias
    )
    x = f
    for up, layer in zip(*[iter(network.reconstructor.layers)] * 2, strict=True):
        assert isinstance(up, nn.Upsample)
        x = layer(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    image = network.reconstructor.image
    x = nnf.conv2d(x, image.weight, image.bias, padding=1)
    return AttentionOutputs(
        torch.stack(binary, 1),
        multilabel,
        x[..., : images.shape[2], : images.shape[3]],
        masks.flatten(2).sum(-1),
    )


def plain_loss(outputs: AttentionOutputs, labels: Tensor, images: Tensor) -> Tensor:
    """Eq. 1, 3, 5, 6 as they are written, with loops over images and attributes."""
    entropy = torch.zeros((), dtype=labels.dtype)
    for logits in (outputs.binary, outputs.multilabel):
        y_hat = logits.sigmoid()
        for i, k in itertools.product(range(N), range(K)):
            y = labels[i, k]
            term = y * y_hat[i, k].log() + (1 - y) * (1 - y_hat[i, k]).log()
            entropy = entropy - term / N
    error = (images - outputs.reconstruction).square().sum() / images.numel()
    return entropy + 4 * error + 1e-5 * outputs.l1.sum() / N


HIDDEN = [
    {},
    {"mask_hidden": 5},
    {"classifier_hidden": 3},
    {"mask_hidden": 2, "classifier_hidden": 7},
]
