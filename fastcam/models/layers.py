"""The layers of a classifier at which its Grad-CAM can be taken, and what a cell of each sees."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from fastcam.cam.layers import preserves_spatial_sum
from fastcam.cam.tap import ActivationTap
from fastcam.models.registry import ModelSpec

__all__ = ["spec_at"]


def spec_at(model: nn.Module, spec: ModelSpec, layer: str) -> ModelSpec:
    """A model's spec with another layer for its Grad-CAM, and the ``gradient_at`` that fits it.

    The gradient is taken after the last pooling that follows the layer in its ``nn.Sequential``
    with nothing but pooling in between (docs/method.md says which pooling), or at the layer itself.

    Args:
        model: as ``spec.build`` made it.
        spec: its registry entry.
        layer: name of a module, as in ``model.named_modules()``.

    Returns:
        ``spec`` itself where the layer is its own.

    Raises:
        TypeError: the name is no string.
        ValueError: the model has no such module (with the names that come close), or the next
            module overwrites its output in place.
    """
    if layer == spec.target_layer:
        return spec
    ActivationTap(model, layer)  # says what is wrong with the name
    parent, _, key = layer.rpartition(".")
    siblings = model.get_submodule(parent)
    pools: list[str] = []
    if type(siblings) is nn.Sequential:
        names = list(siblings._modules)
        for name in names[names.index(key) + 1 :]:
            module = siblings._modules[name]
            name = f"{parent}.{name}" if parent else name
            if getattr(module, "inplace", False):
                if not pools:
                    raise ValueError(
                        f"layer: the output of '{layer}' is overwritten in place by '{name}'; "
                        "name that layer instead"
                    )
                pools.pop()  # whose output is overwritten
            if module is None or not preserves_spatial_sum(module):
                break
            if not isinstance(module, nn.Identity):
                pools.append(name)
    return replace(spec, target_layer=layer, gradient_at=pools[-1] if pools else None)
