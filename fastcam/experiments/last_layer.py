"""Last-layer re-training (DFR): the last linear layer re-fit to images in balanced groups.

Kirichenko, Izmailov and Wilson, "Last layer re-training is sufficient for robustness to spurious
correlations", 2023.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastcam._util.extras import require
from fastcam._util.modules import evaluating, last_linear
from fastcam.data.batches import loader
from fastcam.evaluation.splits import Prepared
from fastcam.models import Checkpoint

#: Draws of balanced groups whose weights are averaged, and strengths of the penalty to choose from.
DRAWS = 10
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)


def retrain_last_layer(
    checkpoint: Checkpoint,
    images: Prepared,
    a: str,
    b: str,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> Checkpoint | None:
    """The same network with another row for a score in its last linear layer.

    The penalty's strength is chosen by the worst group's accuracy on half of ``images``; weights
    are averages over draws in which the four groups (a, b), (a, ¬b), (¬a, b), (¬a, ¬b) have as many
    images as the smallest.

    Args:
        checkpoint: the network; it stays as it is.
        images: validation images, in which all four groups occur.
        a: the attribute whose score is re-fit.
        b: the one it shall not be read from.
        device: where the features are computed; None: where the network is.
        seed: of the halves and draws.

    Returns:
        The new network; None where a group has fewer than four images.

    Raises:
        ValueError: the network's last linear layer does not give the scores.
    """
    linear_model = require("sklearn.linear_model", extra="experiments")
    target, other = (checkpoint.attributes.index(name) for name in (a, b))
    features, labels = _features(checkpoint, images, device)
    y, group = labels[:, target], 2 * labels[:, target] + labels[:, other]
    generator = torch.Generator().manual_seed(seed)
    rows = [(group == g).nonzero().squeeze(1) for g in range(4)]
    if min(len(r) for r in rows) < 4:
        return None
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    normed = ((features - mean) / scale).double().numpy()

    def fit(parts: list[Tensor], strength: float) -> tuple[Tensor, float]:
        count = min(len(p) for p in parts)
        chosen = torch.cat([p[torch.randperm(len(p), generator=generator)[:count]] for p in parts])
        model = linear_model.LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", random_state=seed
        )
        model.fit(normed[chosen], y[chosen].numpy())
        return torch.from_numpy(model.coef_[0]), float(model.intercept_[0])

    halves = []
    for r in rows:
        order = r[torch.randperm(len(r), generator=generator)]
        halves.append((order[: len(r) // 2], order[len(r) // 2 :]))

    def worst(strength: float) -> float:
        weight, bias = fit([first for first, _ in halves], strength)
        right = ((torch.from_numpy(normed) @ weight + bias > 0).long() == y).double()
        return min(float(right[second].mean()) for _, second in halves)

    best = max(STRENGTHS, key=worst)
    found = [fit(rows, best) for _ in range(DRAWS)]
    weight = torch.stack([w for w, _ in found]).mean(0)
    bias = sum(v for _, v in found) / len(found)
    model = copy.deepcopy(checkpoint.model)
    last = _last_linear(model)
    with torch.no_grad():
        raw = weight / scale.double()
        last.weight[target] = raw.to(last.weight)
        last.bias[target] = bias - float((raw * mean.double()).sum())
    return replace(checkpoint, model=model)


def _last_linear(model: nn.Module) -> nn.Linear:
    layer = last_linear(model)
    if layer is None:
        raise ValueError("model: expected one with a linear layer, got none")
    return layer


def _features(
    checkpoint: Checkpoint, images: Prepared, device: str | torch.device | None
) -> tuple[Tensor, Tensor]:
    """What the last linear layer takes [N, F], and labels int64 [N, K]."""
    taken: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken.append(inputs[0].detach().float().cpu())

    last = _last_linear(checkpoint.model)
    labels = []
    hook = last.register_forward_pre_hook(keep)
    try:
        with evaluating(checkpoint.model, device) as device, torch.no_grad():
            for batch in loader(images, 64):
                scores = checkpoint.model(
                    checkpoint.preprocessing.normalize(batch["image"].to(device))
                )
                if scores.shape[1] != last.out_features:
                    raise ValueError("model: expected its last linear layer to give the scores")
                labels.append(batch["labels"].long())
    finally:
        hook.remove()
    return torch.cat(taken), torch.cat(labels)
