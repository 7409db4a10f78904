"""Models by name, with the layer whose Grad-CAM is guided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastcam.models.alexnet import alexnet


@dataclass(frozen=True)
class ModelSpec:
    """How to build a classifier and where its Grad-CAM is taken.

    Attributes:
        build: from the number of attributes to a module of float images [N, 3, H, W] to logits [N,
            K].
        target_layer: submodule whose output is the Grad-CAM layer.
        gradient_at: submodule after which the gradient may be taken (a pooling behind the target
            layer), or None.
    """

    build: Callable[[int], nn.Module]
    target_layer: str
    gradient_at: str | None = None


_REGISTRY: dict[str, ModelSpec] = {
    # The ReLU after conv5 (Y §3: "the last conv-layer delivers the Grad-CAM"), gradients after its
    # pooling.
    "alexnet": ModelSpec(alexnet, "features.11", "features.12"),
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


def build(name: str, num_attributes: int) -> nn.Module:
    """A new model by name; ValueError for an unknown name."""
    return model_spec(name).build(num_attributes)


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
    was_training = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        model(torch.zeros(1, 3, *image_size, dtype=parameter.dtype, device=parameter.device))
    except RuntimeError as error:
        raise ValueError(
            f"images of {image_size[0]}x{image_size[1]} pixels do not pass through the model"
            f" (too small?): {str(error).splitlines()[0]}"
        ) from None
    finally:
        handle.remove()
        for module, mode in was_training:
            module.training = mode
    if not sizes or len(sizes[-1]) != 4:
        raise ValueError(f"target_layer {target_layer!r} gives no [N, C, H, W] map")
    return sizes[-1][2], sizes[-1][3]
