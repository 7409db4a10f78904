"""torchvision's ResNet-18 for K attributes."""

from __future__ import annotations

from torch import nn
from torchvision import models as tv

from fastcam.models.init import initialize


def resnet18(num_attributes: int) -> nn.Module:
    """torchvision's ResNet-18 from scratch, with a small last layer of one logit per attribute.

    Args:
        num_attributes: K, the number of logits.

    Returns:
        A module from float images [N, 3, H, W] to logits [N, K].

    Raises:
        ValueError: ``num_attributes`` below 1.
    """
    if num_attributes < 1:
        raise ValueError(f"num_attributes must be at least 1, got {num_attributes}")
    model = tv.resnet18(num_classes=num_attributes)
    initialize(model.fc, model.fc)
    return model
