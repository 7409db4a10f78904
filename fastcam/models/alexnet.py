"""torchvision's AlexNet for K attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models as tv

from fastcam._util import checks as check
from fastcam.models.init import initialize
from fastcam.models.weights import load_trunk, read_state

INITS = ("he", "default")


def alexnet(
    num_attributes: int,
    weights: tv.AlexNet_Weights | str | Path | None = None,
    init: str = "he",
) -> nn.Module:
    """torchvision's AlexNet, unchanged but for the last layer, which gives one logit per attribute.

    Args:
        num_attributes: K, the number of logits.
        weights: where the other layers' weights come from: a ``torchvision.models.AlexNet_Weights``
            (downloaded by torchvision), a file with a state dict of torchvision's AlexNet, or None.
        init: ``"he"``: He-normal weights, zero biases, a small last layer (standard deviation
            0.001). From PyTorch's default (``"default"``) training from scratch first spends an
            epoch at the majority answer. With ``weights`` only the last layer is initialised.

    Returns:
        A module from float images [N, 3, H, W] (H, W ≥ 63) to logits [N, K].

    Raises:
        ValueError: ``num_attributes`` below 1, an unknown ``init``, or weights that do not fit.
        FileNotFoundError: there is no such weights file.
    """
    check.at_least("num_attributes", num_attributes, 1)
    check.one_of("init", init, INITS)
    model = tv.alexnet(weights=weights if isinstance(weights, tv.AlexNet_Weights) else None)
    last: Any = model.classifier[6]
    model.classifier[6] = nn.Linear(last.in_features, num_attributes)
    if isinstance(weights, (str, Path)):
        load_trunk(model, read_state(Path(weights)), ("classifier.6",), weights)
    if init == "he":
        initialize(model.classifier[6] if weights is not None else model, model.classifier[6])
    return model
