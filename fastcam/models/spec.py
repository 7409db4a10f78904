"""What is known of a kind of classifier: how to build it, and where its Grad-CAM is taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fastcam.cam.layers import preserves_spatial_sum
from fastcam.cam.layout import Reshape, by_kind
from fastcam.cam.tap import ActivationTap

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ModelSpec", "spec_at"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelSpec:
    """How to build a classifier and where its Grad-CAM is taken.

    Attributes:
        build: from the number of attributes, and the options by keyword, to a module of float
            images [N, 3, H, W] to logits [N, K]. The module may have a method
            ``training_loss(images, labels)`` that returns its logits and a named tuple of scalars:
            the loss to train it with, called ``total``, and parts of it (or None) to be logged.
        target_layer: submodule whose output is the Grad-CAM layer. A number below zero counts from
            the end, for :func:`fastcam.models.spec_of`: ``encoder.layers.-1.ln_1``. Empty where
            none is known.
        gradient_at: submodule after which the gradient may be taken (a pooling behind the target
            layer), or None.
        options: names of the keyword arguments of ``build`` that a user may choose; their values
            are JSON values and are kept in checkpoints.
        weight_grads: how :class:`fastcam.IoUCamLoss` can treat the channel weights of this model;
            ``"full"`` needs a head that can be differentiated twice.
        logit_bias: name of the parameter [K] that is added to the logits last, or None; a
            fine-tuning re-fits the guided attributes' entries of it.
        reshape: how the layer's output becomes a map, see :class:`fastcam.ActivationTap`.
        head: names of the modules that give the logits: not taken from weights that a new model
            starts with. Empty: that of ``logit_bias``.
        size_option: which of the options is the side of the images in pixels, in a network that is
            built for one.
        mean, std: how images are normalised, per RGB channel.
        pretrained: from the name of weights, K and the options to a state dict, or None.
        locate: from the model and this entry to one with the layer, for networks whose layers
            are known by what is in them; or None.
        renewed: from a state dict that others wrote to one with the names and parts of ``build``'s
            module, for networks whose weights have others; or None.
    """

    build: Callable[..., nn.Module]
    target_layer: str = ""
    gradient_at: str | None = None
    options: tuple[str, ...] = ()
    weight_grads: tuple[str, ...] = ("full", "detach")
    logit_bias: str | None = None
    reshape: Reshape | None = None
    head: tuple[str, ...] = ()
    size_option: str | None = None
    mean: _Triple = IMAGENET_MEAN
    std: _Triple = IMAGENET_STD
    pretrained: Callable[[str, int, Mapping[str, Any]], Mapping[str, Tensor]] | None = None
    locate: Callable[[nn.Module, ModelSpec], ModelSpec] | None = None
    renewed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None

    def tap(self, model: nn.Module) -> ActivationTap:
        """A tap of the Grad-CAM layer.

        Raises:
            ValueError: no layer is known, or the model has no such.
        """
        if not self.target_layer:
            raise ValueError(
                f"no layer is known at which the Grad-CAM of this {type(model).__name__} is taken; "
                "name one with --target-layer (`fastcam layers` lists what there is)"
            )
        return ActivationTap(
            model, self.target_layer, gradient_at=self.gradient_at, reshape=self.reshape
        )


def spec_at(model: nn.Module, spec: ModelSpec, layer: str) -> ModelSpec:
    """A model's spec with another layer for its Grad-CAM, and the ``gradient_at`` that fits it.

    The gradient is taken after the last pooling that follows the layer in its ``nn.Sequential``
    with nothing but pooling in between (docs/method.md says which pooling), or at the layer itself.
    Its output is read as what it is seen to be; where the model's own layer is read by a function,
    by that, but for convolutions, pooling and batch norms.

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
    reshape = spec.reshape
    first = pools or by_kind(model.get_submodule(layer)) == 1
    if first or reshape is None or isinstance(reshape, str):
        reshape = "auto"
    at = pools[-1] if pools else None
    return replace(spec, target_layer=layer, gradient_at=at, reshape=reshape)


@contextmanager
def passing(size: tuple[int, int]) -> Iterator[None]:
    """A forward of images of (height, width) pixels; ValueError where it cannot take them."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        why = "too small?"
        if found := re.search(r"to have (\d+) channels?, but got 3 channels", said):
            why = (
                f"it takes {found[1]} channel(s), and images are RGB: begin its forward with "
                "images[:, :1], or as it makes its channels of RGB"
            )
        raise ValueError(
            f"images of {size[0]}x{size[1]} pixels do not pass through the model ({why}): {said}"
        ) from None
