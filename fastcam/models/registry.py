"""Models by name, with the layer whose Grad-CAM is guided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastcam._util.modules import evaluating
from fastcam.models.alexnet import alexnet
from fastcam.models.attention import AttentionNetwork
from fastcam.models.torchvision_nets import resnet18, resnet50, vgg16


@dataclass(frozen=True)
class ModelSpec:
    """How to build a classifier and where its Grad-CAM is taken.

    Attributes:
        build: from the number of attributes, and the options by keyword, to a module of float
            images [N, 3, H, W] to logits [N, K]. The module may have a method
            ``training_loss(images, labels)`` that returns its logits and a named tuple of scalars:
            the loss to train it with, called ``total``, and parts of it (or None) to be logged.
        target_layer: submodule whose output is the Grad-CAM layer.
        gradient_at: submodule after which the gradient may be taken (a pooling behind the target
            layer), or None.
        options: names of the keyword arguments of ``build`` that a user may choose; their values
            are JSON values and are kept in checkpoints.
        weight_grads: how :class:`fastcam.IoUCamLoss` can treat the channel weights of this model;
            ``"full"`` needs a head that can be differentiated twice.
        logit_bias: name of the parameter [K] that is added to the logits last, or None; a
            fine-tuning re-fits the guided attributes' entries of it.
    """

    build: Callable[..., nn.Module]
    target_layer: str
    gradient_at: str | None = None
    options: tuple[str, ...] = ()
    weight_grads: tuple[str, ...] = ("full", "detach")
    logit_bias: str | None = None


_REGISTRY: dict[str, ModelSpec] = {
    # The ReLU after conv5, the last convolution, as in Yang et al.; gradients after its
    # pooling.
    "alexnet": ModelSpec(alexnet, "features.11", "features.12", logit_bias="classifier.6.bias"),
    "resnet18": ModelSpec(resnet18, "layer4", logit_bias="fc.bias"),
    "resnet50": ModelSpec(resnet50, "layer4", logit_bias="fc.bias"),
    # The ReLU after conv5_3.
    "vgg16": ModelSpec(vgg16, "features.29", "features.30", logit_bias="classifier.6.bias"),
    # The features that all masks share; behind them is a fused op, differentiable once.
    "attention": ModelSpec(
        AttentionNetwork,
        "features",
        options=(
            "channels",
            "stride",
            "dilations",
            "norm",
            "mask_hidden",
            "classifier_hidden",
            "multilabel",
            "reconstructor",
            "loss",
        ),
        weight_grads=("detach",),
        logit_bias="binary.bias",
    ),
}


def register(name: str, spec: ModelSpec) -> None:
    """Make a model of your own known by name, for :func:`build`, checkpoints and training.

    Raises:
        ValueError: another model has that name.
    """
    if _REGISTRY.get(name, spec) != spec:
        raise ValueError(f"a model named {name!r} is registered already")
    _REGISTRY[name] = spec


def model_names() -> list[str]:
    """The registered names."""
    return sorted(_REGISTRY)


def model_spec(name: str) -> ModelSpec:
    """The entry of a registered model; ValueError for an unknown name."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(model_names())}")
    return _REGISTRY[name]


def build(name: str, num_attributes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A new model by name.

    Args:
        name: a registered name.
        num_attributes: K.
        options: of the model, by name; None leaves each at its default.

    Raises:
        ValueError: an unknown name, or an option that the model does not have.
    """
    spec, options = model_spec(name), dict(options or {})
    for option in options:
        if option not in spec.options:
            known = ", ".join(spec.options) or "none"
            raise ValueError(f"model {name!r} has no option {option!r}; it has: {known}")
    return spec.build(num_attributes, **options)


@torch.no_grad()
def grid_size(model: nn.Module, target_layer: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the target layer's output for images of ``image_size`` (height, width).

    Raises:
        ValueError: no such layer, an output that is no [N, C, H, W] map, or images too small for
            the model.
    """
    try:
        layer = model.get_submodule(target_layer)
    except AttributeError as error:
        raise ValueError(f"target_layer {target_layer!r} does not exist: {error}") from None
    sizes: list[tuple[int, ...]] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: sizes.append(tuple(output.shape)))
    parameter = next(model.parameters())
    try:
        with evaluating(model):
            model(torch.zeros(1, 3, *image_size, dtype=parameter.dtype, device=parameter.device))
    except RuntimeError as error:
        raise ValueError(
            f"images of {image_size[0]}x{image_size[1]} pixels do not pass through the model"
            f" (too small?): {str(error).splitlines()[0]}"
        ) from None
    finally:
        handle.remove()
    if not sizes or len(sizes[-1]) != 4:
        raise ValueError(f"target_layer {target_layer!r} gives no [N, C, H, W] map")
    return sizes[-1][2], sizes[-1][3]
