"""The optimiser of a run, and how its learning rate goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from fastcam._util.extras import require
from fastcam.training.config import TrainConfig


def optimizer_of(model: nn.Module, config: TrainConfig, *, scaled: bool = False) -> Optimizer:
    """SGD, or LARS or LAMB, that scale the step of each weight tensor by its own norm.

    Biases and the weights of norms, whose norms say nothing, are then neither scaled nor decayed.
    Only LAMB's own clipping of the gradient is left out: ``clip`` is the run's.

    Args:
        scaled: whether a GradScaler scales the losses.

    Raises:
        ImportError: timm, which brings LARS and LAMB, is not installed.

    Sources: You, Gitman and Ginsburg, "Large batch training of convolutional networks" (2017),
    Algorithm 1; You et al., "Large batch optimization for deep learning: training BERT in 76
    minutes" (2020), Algorithm 2. Goyal et al., "Accurate, large minibatch SGD" (2017), for the
    linear scaling.
    """
    lr = rate(config)
    if config.optimizer == "sgd":
        # One pass over weights, gradients and momenta; it unscales gradients itself, too late to
        # clip them, so not beside a scaler.
        return torch.optim.SGD(
            model.parameters(),
            lr=lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=not scaled,
        )
    optim: Any = require("timm.optim", extra="timm")
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Any = [
        {
            "params": [p for p in trained if p.dim() > 1],
            "weight_decay": config.weight_decay,
            "always_adapt": True,
        },
        {
            "params": [p for p in trained if p.dim() <= 1],
            "weight_decay": 0.0,
            "always_adapt": False,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "lars":
        return optim.Lars(groups, lr=lr, momentum=config.momentum)
    return optim.Lamb(groups, lr=lr, betas=(config.momentum, 0.999), max_grad_norm=None)


def lay_out(optimizer: Optimizer) -> None:
    """Bring a loaded state to the parameters' memory format, which may be another than when it was
    saved: fused SGD takes both as they lie in memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            fits = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if fits and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def rate(config: TrainConfig) -> float:
    """The highest learning rate of a run: linear in the batch where ``lr_batch`` is given."""
    return config.lr * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)


def schedule_of(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler | None:
    """What changes the learning rate after each of so many steps; None for nothing.

    Raises:
        ValueError: it has to know how many steps there are, and ``steps`` is 0.
    """
    if config.schedule == "constant" and not config.warmup:
        return None
    if not steps:
        name = f"schedule: {config.schedule}" if config.schedule != "constant" else "warmup"
        raise ValueError(
            f"{name} needs to know how many batches an epoch has, which this data does"
            " not say (give the trainer max_steps, or take constant and no warmup), or it has none"
            " (fewer images than a batch, of which drop_last keeps nothing)"
        )
    rising = min(round(config.warmup * steps), steps - 1)
    after: LRScheduler | None = None
    if config.schedule == "cosine":
        after = CosineAnnealingLR(optimizer, T_max=steps - rising)
    if not rising:
        return after
    # The first of w steps takes 1/(w+1) of the rate, the one after them all of it.
    warm = LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
    return warm if after is None else SequentialLR(optimizer, [warm, after], [rising])
