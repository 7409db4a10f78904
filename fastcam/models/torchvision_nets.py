"""torchvision's ResNets and VGG-16 for K attributes."""

from __future__ import annotations

from typing import Any

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
    return _resnet(tv.resnet18, num_attributes)


def resnet50(num_attributes: int) -> nn.Module:
    """torchvision's ResNet-50; see :func:`resnet18`."""
    return _resnet(tv.resnet50, num_attributes)


def vgg16(num_attributes: int) -> nn.Module:
    """torchvision's VGG-16 from He's initialisation, of images of at least 32 pixels.

    Otherwise as :func:`resnet18`.
    """
    _check(num_attributes)
    model = tv.vgg16(num_classes=num_attributes)
    initialize(model, model.classifier[6])
    return model


def _resnet(build: Any, num_attributes: int) -> nn.Module:
    _check(num_attributes)
    model = build(num_classes=num_attributes)
    initialize(model.fc, model.fc)
    return model


def _check(num_attributes: int) -> None:
    if num_attributes < 1:
        raise ValueError(f"num_attributes must be at least 1, got {num_attributes}")
