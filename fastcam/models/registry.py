"""Models by name, with the layer whose Grad-CAM is guided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastcam._util.modules import evaluating
from fastcam._util.names import did_you_mean
from fastcam.models import timm_nets, torchvision_nets
from fastcam.models.alexnet import alexnet
from fastcam.models.attention import AttentionNetwork
from fastcam.models.small import SmallNetwork
from fastcam.models.spec import ModelSpec, passing, spec_at
from fastcam.models.weights import is_file_name, load_trunk, read_state

__all__ = [
    "build",
    "grid_size",
    "model_names",
    "model_spec",
    "options_for",
    "register",
    "spec_of",
]

_REGISTRY: dict[str, ModelSpec] = {
    name: spec
    for name in torchvision_nets.names()
    if (spec := torchvision_nets.spec(name)) is not None
}
# The ReLU after conv5, the last convolution, as in Yang et al.; gradients after its pooling.
_REGISTRY["alexnet"] = replace(_REGISTRY["alexnet"], build=alexnet)
# The features that all masks share; behind them is a fused op, differentiable once.
_REGISTRY["attention"] = ModelSpec(
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
)
_REGISTRY["small"] = ModelSpec(
    SmallNetwork, "features.8", "features.9", options=("width",), logit_bias="classifier.3.bias"
)
_BUILT_IN = frozenset(_REGISTRY)


def register(name: str, spec: ModelSpec) -> None:
    """Make a model of your own known by name, for :func:`build`, checkpoints and training.

    Raises:
        ValueError: another model has that name.
    """
    if _REGISTRY.get(name, spec) != spec:
        raise ValueError(f"a model named {name!r} is registered already")
    _REGISTRY[name] = spec


def register_all(models: Mapping[str, ModelSpec]) -> None:
    """Register what :func:`registered` gave in another process."""
    for name, spec in models.items():
        register(name, spec)


def registered() -> dict[str, ModelSpec]:
    """What :func:`register` was told of."""
    return {name: spec for name, spec in _REGISTRY.items() if name not in _BUILT_IN}


def model_names() -> list[str]:
    """The registered names, torchvision's classifiers among them; timm's are not listed."""
    return sorted(_REGISTRY)


def is_model_name(name: str) -> bool:
    """Whether a text names a model: a registered one, or one of timm's (``timm:convnext_tiny``)."""
    return name in _REGISTRY or timm_nets.is_name(name)


def model_spec(name: str) -> ModelSpec:
    """The entry of a registered model, or of one of timm's.

    Raises:
        ValueError: an unknown name; the message has names that come close.
        ImportError: a name of timm's, without timm.
    """
    if timm_nets.is_name(name):
        return timm_nets.spec(name)
    if name not in _REGISTRY:
        raise ValueError(
            f"unknown model {name!r}{did_you_mean(name, _REGISTRY, 3)}; known: alexnet, small and"
            " attention, torchvision's classifiers (resnet50), timm's as timm:NAME"
            " (timm:convnext_tiny), and those that were registered"
        )
    return _REGISTRY[name]


def spec_of(model: nn.Module, name: str, layer: str | None = None) -> ModelSpec:
    """The entry of a model, with its Grad-CAM layer named as in this instance.

    Args:
        model: as :func:`build` made it.
        name: what it was built by.
        layer: in place of the Grad-CAM layer that is known.

    Raises:
        ValueError: the model has no such layer.
    """
    spec = model_spec(name)
    if spec.locate is not None:
        spec = spec.locate(model, spec)
    at = spec.gradient_at
    spec = replace(
        spec,
        target_layer=_counted(model, spec.target_layer),
        gradient_at=at and _counted(model, at),
    )
    return spec if layer is None else spec_at(model, spec, _counted(model, layer))


def _counted(model: nn.Module, name: str) -> str:
    """A layer's name with numbers from the end (``layers.-1``) as the model has them."""
    parts: list[str] = []
    module: Any = model
    for part in name.split("."):
        keys = list(getattr(module, "_modules", {}))
        if part.startswith("-") and part[1:].isdigit() and 0 < int(part[1:]) <= len(keys):
            part = keys[int(part)]
        parts.append(part)
        module = getattr(module, "_modules", {}).get(part)
    return ".".join(parts)


def options_for(name: str, options: Mapping[str, Any] | None, size: int) -> dict[str, Any]:
    """Options of a model by name for images of ``size`` pixels: its side, where it needs one."""
    option = model_spec(name).size_option
    return {**({option: size} if option else {}), **(options or {})}


def build(
    name: str,
    num_attributes: int,
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """A new model by name.

    Args:
        name: a registered name, or ``timm:`` and one of timm's.
        num_attributes: K.
        options: of the model, by name; None leaves each at its default.
        weights: what all but the last layer start with: a file with a state dict (of
            ``torch.save``, or safetensors), or the name of weights of torchvision
            (``IMAGENET1K_V1``) or timm (``DEFAULT``, or a tag), which are downloaded; None draws
            them.

    Raises:
        ValueError: an unknown name, an option that the model does not have, or weights that do not
            fit.
        FileNotFoundError: there is no such file.
        ConnectionError: the weights cannot be downloaded.
        ImportError: a name of timm's or a safetensors file, without timm.
    """
    spec, options = model_spec(name), dict(options or {})
    for option in options:
        if option not in spec.options:
            known = ", ".join(spec.options) or "none"
            raise ValueError(f"model {name!r} has no option {option!r}; it has: {known}")
    model = spec.build(num_attributes, **options)
    if weights is None:
        return model
    if is_file_name(str(weights)):
        state: Any = read_state(Path(weights))
    elif spec.pretrained is None:
        raise ValueError(f"weights: expected a file for model {name!r}, got {weights!r}")
    else:
        state = spec.pretrained(str(weights), num_attributes, options)
    if spec.renewed is not None:
        state = spec.renewed(state)
    head = spec.head or ((spec.logit_bias or "").rpartition(".")[0],)
    load_trunk(model, state, head, weights)
    return model


def grid_size(
    model: nn.Module, at: str | ModelSpec, image_size: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of a layer's map for images of ``image_size`` (height, width).

    Args:
        model: of images [N,3,H,W].
        at: name of the layer, or a model's entry for its Grad-CAM layer and how that is read.
        image_size: in pixels.

    Raises:
        ValueError: no such layer, an output that is no map, or images too small for the model.
    """
    tap = (ModelSpec(type(model), at) if isinstance(at, str) else at).tap(model)
    like = next(model.parameters())
    images = torch.zeros(1, 3, *image_size, dtype=like.dtype, device=like.device)
    with tap, evaluating(model), torch.enable_grad():
        with passing(image_size):
            model(images)
        height, width = tap.activations.shape[2:]
    return height, width
