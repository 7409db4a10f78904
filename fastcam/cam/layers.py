"""The layers of which a head with a closed form may consist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam._util.dropout import SharedDropout

__all__ = ["Step", "averages", "describe", "is_compiled", "kind_of", "preserves_spatial_sum"]

_KINDS: dict[type[nn.Module], str] = {
    nn.MaxPool2d: "pool",
    nn.AdaptiveMaxPool2d: "pool",
    nn.AvgPool2d: "pool",
    nn.AdaptiveAvgPool2d: "pool",
    nn.Linear: "linear",
    nn.ReLU: "relu",
    nn.Dropout: "dropout",
    SharedDropout: "dropout",
    nn.Flatten: "shape",
    nn.Identity: "shape",
}
_FORWARDS = {cls: cls.forward for cls in _KINDS}


@dataclass(slots=True, eq=False)
class Step:
    """What a head did next: "pool", "linear", "relu", "dropout", "copy" or "reshape"."""

    kind: str
    what: str  # in words
    taken: tuple[int, ...] = ()  # shape of a linear layer's input
    weight: Tensor | None = None  # of a linear layer: W [J,I] as the forward used it
    node: Node | None = None  # in the graph, if there is one
    # Of a ReLU which entries it blocks (bool), of a dropout by what it multiplied: of the shape of
    # the output, or a scalar. None where that cannot be seen.
    factor: Tensor | None = None


def describe(name: str, module: nn.Module) -> str:
    return f"'{name}' ({type(module).__name__})"


def kind_of(module: nn.Module) -> str | None:
    """Which recognised layer this is; None if it is another, or if its forward was replaced."""
    cls = type(module)
    kind = _KINDS.get(cls)
    if kind is None or "forward" in module.__dict__ or cls.forward is not _FORWARDS[cls]:
        return None
    return kind


def is_compiled(module: nn.Module) -> bool:
    """A torch.compile wrapper, or a module compiled in place: what lies within cannot be seen."""
    return (
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    )


def averages(padding: Iterable[int], pad_counts: bool, divisor: int | None) -> bool:
    """Whether an average pool's weights sum to one at each output."""
    return not (any(padding) and pad_counts) and divisor is None


def preserves_spatial_sum(module: nn.Module) -> bool:
    """Whether a gradient sums to the same over positions before and after the layer."""
    if kind_of(module) == "pool":
        if isinstance(module, nn.AvgPool2d):
            padding = module.padding if isinstance(module.padding, tuple) else (module.padding,)
            return averages(padding, module.count_include_pad, module.divisor_override)
        return not getattr(module, "return_indices", False)
    return type(module) is nn.Identity
