"""He initialisation with a small last layer."""

from __future__ import annotations

from torch import nn


def initialize(module: nn.Module, last: nn.Module | None = None, last_std: float = 0.001) -> None:
    """He-normal weights (fan-in, ReLU) and zero biases for convolution and linear layers, in place.

    Args:
        module: the network, or a part of it.
        last: the layer that gives the logits; its weights are normal with ``last_std`` instead, so
            that training starts from probabilities near one half.
        last_std: that standard deviation.
    """
    for layer in module.modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        if layer is last:
            nn.init.normal_(layer.weight, std=last_std)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
