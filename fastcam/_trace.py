"""What ran after the tapped layer in the forward just run, as the tap's hooks saw it.

A :class:`Trace` follows the data from the tapped output through the modules that a closed-form head
(specification §2.2) or a ``gradient_at`` (§2.1) may contain. A module joins the trace only when its
input is *proven* to be the output of one that is in it: the same memory, unchanged, or a copy made
by reshaping alone. Each recognised module is a function of that input and nothing else, so a path
through the trace is the whole dependence of its end on its start. Whatever is not proven is left
out, and autograd takes over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

__all__ = ["Call", "Capture", "Trace", "describe", "is_compiled", "sums_survive"]

# Autograd nodes that keep values and row-major order: what functional reshapes, copies and casts
# leave between two modules. ResNet's torch.flatten of a channels_last tensor is such a copy.
_RESHAPES = frozenset(
    {
        "AliasBackward0",
        "CloneBackward0",
        "ReshapeAliasBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "SqueezeBackward2",
        "ToCopyBackward0",
        "UnsafeViewBackward0",
        "UnsqueezeBackward0",
        "ViewBackward0",
        "_DDPSinkBackward",  # DistributedDataParallel's identity around the outputs
    }
)
_MAX_RESHAPES = 6

_KINDS: dict[type, str] = {
    nn.MaxPool2d: "pool",
    nn.AdaptiveMaxPool2d: "pool",
    nn.AvgPool2d: "pool",
    nn.AdaptiveAvgPool2d: "pool",
    nn.Linear: "linear",
    nn.ReLU: "relu",
    nn.Dropout: "dropout",
    nn.Flatten: "shape",
    nn.Identity: "shape",
}


def describe(name: str, module: nn.Module) -> str:
    return f"'{name}' ({type(module).__name__})"


def is_compiled(module: nn.Module) -> bool:
    """A torch.compile wrapper, or a module compiled in place: what lies within cannot be seen."""
    return (
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    )


def _kind(module: nn.Module) -> str | None:
    """Which recognised layer this is; None if it is another, or if its forward was replaced."""
    kind = _KINDS.get(type(module))
    return None if kind is None or "forward" in module.__dict__ else kind


def sums_survive(module: nn.Module) -> bool:
    """Whether a gradient's sum over positions is the same before and after the layer (§2.1)."""
    if _kind(module) == "pool":
        if isinstance(module, nn.AvgPool2d):
            padding = module.padding if isinstance(module.padding, tuple) else (module.padding,)
            pads = any(padding) and module.count_include_pad
            return not pads and module.divisor_override is None
        return not getattr(module, "return_indices", False)
    return type(module) is nn.Identity


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


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


def _reshaped_from(child: Tensor, parent: GradientEdge | None) -> bool:
    """Whether autograd's graph leads from child to parent through reshapes and copies alone."""
    node = child.grad_fn
    if parent is None:
        return False
    for _ in range(_MAX_RESHAPES):
        if node is None or node is parent.node:
            break
        if node.name() not in _RESHAPES or len(node.next_functions) != 1:
            return False
        node = node.next_functions[0][0]
    return node is parent.node and parent.output_nr == 0


def _edge(tensor: Tensor) -> GradientEdge | None:
    return get_gradient_edge(tensor) if tensor.requires_grad else None


@dataclass(slots=True)
class Capture:
    """A module's output as it was when the module returned it."""

    name: str
    output: Any
    grad_enabled: bool
    version: int = -1
    culprit: tuple[str | None, str] | None = None  # name of the module if it was one, and in words

    @classmethod
    def of(cls, name: str, output: Any) -> Capture:
        version = _version(output) if isinstance(output, Tensor) else -1
        return cls(name, output, torch.is_grad_enabled(), version)

    def overwritten(self) -> bool:
        return isinstance(self.output, Tensor) and _version(self.output) != self.version

    def blame(self, name: str | None, words: str) -> None:
        if self.culprit is None and self.overwritten():
            self.culprit = name, words


@dataclass(slots=True, eq=False)
class Call:
    """A call of a recognised module whose input is the output of ``parent`` (None: the layer)."""

    module: nn.Module
    name: str
    kind: str
    parent: Call | None
    source: GradientEdge | None  # of the input
    probability: float  # of an active dropout; 0 otherwise
    weight: Tensor | None  # of a linear layer, with its version
    weight_version: int
    output: Tensor
    version: int = -1
    target: GradientEdge | None = None  # of the output

    def path(self) -> list[Call]:
        """The calls from the tapped layer to this one, in the order in which they ran."""
        calls: list[Call] = []
        call: Call | None = self
        while call is not None:
            calls.append(call)
            call = call.parent
        return calls[::-1]

    def untouched(self) -> bool:
        return _version(self.output) == self.version


@dataclass(slots=True)
class Trace:
    """The tapped output, what was captured at ``gradient_at``, and the calls that followed."""

    layer: Capture
    gradient: Capture | None = None
    ran_before_gradient: int = 0
    calls: list[Call] = field(default_factory=list)
    ran: list[tuple[str, nn.Module]] = field(default_factory=list)
    outside: str | None = None  # the first module that took the data out of the recognised chain
    compiled: str | None = None  # the first torch.compile'd module after the layer
    _source: GradientEdge | None = None
    _running: list[tuple[nn.Module, Call | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.layer.output, Tensor):
            self._source = _edge(self.layer.output)

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A leaf module is about to run."""
        self._blame(None, f"code outside of modules, before '{name}' ran")
        self.ran.append((name, module))
        if self.compiled is None and is_compiled(module):
            self.compiled = name
        self._running.append((module, self._call(name, module, args)))

    def after(self, name: str, module: nn.Module, output: Any) -> None:
        """The leaf module has run; ``output`` is what its own forward returned."""
        self._blame(name, describe(name, module))
        call = None
        if any(running is module for running, _ in self._running):
            while self._running[-1][0] is not module:  # left by a forward that raised
                self._running.pop()
            call = self._running.pop()[1]
        if call is not None and isinstance(output, Tensor):
            call.output, call.version, call.target = output, _version(output), _edge(output)
            self.calls.append(call)

    def find(self, tensor: Tensor) -> Call | None:
        """The call whose output ``tensor`` is, or is a reshaped copy of."""
        for call in reversed(self.calls):
            if call.untouched() and _same_memory(tensor, call.output):
                return call
        for call in reversed(self.calls):
            if _reshaped_from(tensor, call.target):
                return call
        return None

    def _call(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> Call | None:
        if len(args) != 1 or not isinstance(args[0], Tensor):
            for argument in args:
                if isinstance(argument, Tensor) and self._holds(argument):
                    self._leave(f"{describe(name, module)}, which takes more than one argument")
            return None
        taken = args[0]
        parent = self.find(taken)
        if parent is None and not self._is_layer_output(taken):
            if self.outside is None:
                self._leave(
                    f"{describe(name, module)}, whose input is not the output of a module that was "
                    "recognised before it (code outside of modules changed it?)"
                )
            return None
        kind = _kind(module)
        if kind is None or (kind == "pool" and not sums_survive(module)):
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
        return Call(
            module,
            name,
            kind,
            parent,
            _edge(taken),
            probability,
            weight,
            -1 if weight is None else _version(weight),
            taken,
        )

    def _is_layer_output(self, tensor: Tensor) -> bool:
        layer = self.layer.output
        return isinstance(layer, Tensor) and (
            (_same_memory(tensor, layer) and not self.layer.overwritten())
            or _reshaped_from(tensor, self._source)
        )

    def _holds(self, tensor: Tensor) -> bool:
        return self._is_layer_output(tensor) or self.find(tensor) is not None

    def _leave(self, why: str) -> None:
        if self.outside is None:
            self.outside = why

    def _blame(self, name: str | None, words: str) -> None:
        self.layer.blame(name, words)
        if self.gradient is not None:
            self.gradient.blame(name, words)
