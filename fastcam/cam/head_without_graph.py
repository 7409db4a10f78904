"""What ran after the tapped layer in a forward without a graph, followed by the memory of the data.

Only for maps that are looked at: nothing can be trained from such a forward. A module joins when
its input is *proven* to be the output of one that has: the same memory, unchanged. Each recognised
module is a function of that input and nothing else, so a path is the whole dependence of its end on
its start, as far as values go; what changes only gradients cannot be seen without a graph.

Inference tensors do not count their changes. So in inference mode the tap hands on a copy of what
the layer and each recognised module returned, which does, as do its views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from fastcam._util.tensors import version_of, versioned
from fastcam.cam.layers import Step, describe, kind_of, preserves_spatial_sum

__all__ = ["Link", "MemoryChain"]


def _global_hooks() -> bool:
    """Hooks on every module run before a tap's own, which then sees what they have made of it."""
    return bool(
        getattr(_module, "_global_forward_hooks", None)
        or getattr(_module, "_global_forward_pre_hooks", None)
    )


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two live tensors hold the same values in the same row-major order, by address."""
    if a is b:
        return True
    try:
        return (
            a.numel() > 0  # empty tensors all lie at address 0
            and a.dtype == b.dtype
            and a.device == b.device
            and a.numel() == b.numel()
            and a.data_ptr() == b.data_ptr()
            and (
                (a.is_contiguous() and b.is_contiguous())
                or (a.shape == b.shape and a.stride() == b.stride())
            )
        )
    except RuntimeError:  # no memory to point at (functional transforms, fake tensors)
        return False


@dataclass(slots=True, eq=False)
class Link:
    """A call of a recognised module whose input is the output of ``parent`` (None: the layer)."""

    module: nn.Module
    name: str
    kind: str
    parent: Link | None
    probability: float  # of an active dropout; 0 otherwise
    weight: Tensor | None  # of a linear layer, with its version
    weight_version: int
    taken: Tensor
    output: Tensor
    version: int = -1

    def path(self) -> list[Link]:
        """The links from the tapped layer to this one, in the order in which they ran."""
        links: list[Link] = []
        link: Link | None = self
        while link is not None:
            links.append(link)
            link = link.parent
        return links[::-1]

    def untouched(self) -> bool:
        return version_of(self.output) == self.version


def _multipliers(group: list[Link]) -> list[Step]:
    """The ReLUs and active dropouts between two linear layers.

    What passed the ReLU and was kept is not zero at the end, and only there can both have let a
    gradient through. Of a dropout alone nobody knows what it kept where its input was zero.
    """
    steps = [Step(link.kind, describe(link.name, link.module)) for link in group]
    if any(link.kind == "relu" for link in group) and group[-1].untouched():
        blocked = group[-1].output.detach() == 0
        for link, step in zip(group, steps, strict=True):
            scale = 1 / (1 - link.probability) if link.probability < 1 else 1.0
            step.factor = blocked if link.kind == "relu" else torch.tensor(scale)
    return steps


class MemoryChain:
    """The recognised calls of a forward, by the memory of what they took and returned."""

    def __init__(self, layer: Tensor) -> None:
        self.links: list[Link] = []
        self.outside: str | None = None  # the first module that took the data out of the chain
        self._layer, self._version = layer, version_of(layer)
        if _global_hooks():
            self._leave("modules with hooks that are registered for all modules")

    def find(self, tensor: Tensor) -> Link | None:
        """The call whose output ``tensor`` is."""
        for link in reversed(self.links):
            if link.untouched() and _same_memory(tensor, link.output):
                return link
        return None

    def steps(self, tensor: Tensor, layer: str) -> list[Step] | str:
        """From the layer to ``tensor``, or why that is not known."""
        end = self.find(tensor)
        if end is None and self.outside is not None:
            return f"after '{layer}' ran {self.outside}"
        if end is None:
            last = self.links[-1] if self.links else None
            after = describe(last.name, last.module) if last else f"'{layer}'"
            return (
                f"code outside of modules changed what {after} returned before it became the logits"
            )
        steps: list[Step] = []
        group: list[Link] = []  # since the last linear layer
        for link in end.path():
            what = describe(link.name, link.module)
            if link.kind == "linear":
                assert link.weight is not None
                if version_of(link.weight) != link.weight_version:
                    return f"the weight of {what} changed after the forward"
                steps += _multipliers(group)
                steps.append(Step("linear", what, tuple(link.taken.shape), link.weight))
                group = []
            elif link.kind == "relu" or link.probability > 0:
                group.append(link)
            elif link.kind == "pool":
                steps += _multipliers(group)
                steps.append(Step("pool", what))
                group = []
        return steps + _multipliers(group)

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> Link | None:
        """A module is about to run: its link, if its input is what the chain has come to."""
        if len(args) != 1 or not isinstance(args[0], Tensor):
            for argument in args:
                if isinstance(argument, Tensor) and self._holds(argument):
                    self._leave(f"{describe(name, module)}, which takes more than one argument")
            return None
        taken = args[0]
        parent = self.find(taken)
        if parent is None and not self._is_layer_output(taken):
            self._leave(
                f"{describe(name, module)}, whose input is not the output of a module that was "
                "recognised before it (code outside of modules changed it?)"
            )
            return None
        kind = kind_of(module)
        if (
            kind is None
            or (kind == "pool" and not preserves_spatial_sum(module))
            or _global_hooks()
        ):
            self._leave(f"{describe(name, module)}, which is not a layer of a closed form")
            return None
        probability, weight = 0.0, None
        if isinstance(module, nn.Dropout) and module.training:
            probability = float(module.p)
        if isinstance(module, nn.Linear):
            weight = module._parameters.get("weight")
            if weight is None or module.weight is not weight:
                self._leave(f"{describe(name, module)}, whose weight is not a plain parameter")
                return None
        version = -1 if weight is None else version_of(weight)
        return Link(module, name, kind, parent, probability, weight, version, taken, taken)

    def after(self, link: Link | None, output: Any) -> Tensor | None:
        """A module has run; what the rest of the network gets, where that is to be a copy."""
        if link is None or not isinstance(output, Tensor):
            return None
        link.output = versioned(output)
        link.version = version_of(link.output)
        self.links.append(link)
        return link.output if link.output is not output else None

    def _is_layer_output(self, tensor: Tensor) -> bool:
        return _same_memory(tensor, self._layer) and version_of(self._layer) == self._version

    def _holds(self, tensor: Tensor) -> bool:
        return self._is_layer_output(tensor) or self.find(tensor) is not None

    def _leave(self, why: str) -> None:
        if self.outside is None:
            self.outside = why
