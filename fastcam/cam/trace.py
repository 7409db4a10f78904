"""What ran after the tapped layer in the forward just run, as the tap's hooks saw it.

A :class:`Trace` keeps, for every leaf module that ran after the layer, the tensors that went in and
came out. Where the forward has a graph, :mod:`fastcam.cam.head_graph` reads from it what those
modules did; a forward without one is followed by :mod:`fastcam.cam.head_without_graph`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.cam.head_without_graph import Link, MemoryChain
from fastcam.cam.hook_registry import handles_made, is_own
from fastcam.cam.layers import describe, is_compiled

__all__ = ["Call", "Capture", "Trace", "is_hooked"]


def is_hooked(tensor: Tensor) -> bool:
    """Whether a hook was registered on the tensor: it may change the gradient that passes there.

    (``retain_grad`` only looks. Of a tensor that was overwritten in place since, torch no longer
    tells: :attr:`Call.overwrites` asks before.)
    """
    return bool(tensor._backward_hooks)


@dataclass(slots=True)
class Capture:
    """A module's output as it was when the module returned it."""

    name: str
    output: Any
    grad_enabled: bool
    # The output, if torch counts its versions, and the one that it had.
    counted: Tensor | None = None
    version: int = -1
    # The name of the module that overwrote the output, if it was one; and in words.
    overwriter: tuple[str | None, str] | None = None

    @classmethod
    def of(cls, name: str, output: Any) -> Capture:
        graph = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        capture = cls(name, output, graph)
        if isinstance(output, Tensor) and not output.is_inference():
            capture.counted, capture.version = output, output._version
        return capture

    def overwritten(self) -> bool:
        return self.counted is not None and self.counted._version != self.version

    def note_overwriter(self, name: str, module: nn.Module, returned: bool) -> None:
        """Remember who overwrote the output: the module, or code that ran before it was called."""
        if self.overwriter is None:
            self.overwriter = (
                (name, describe(name, module))
                if returned
                else (None, f"code outside of modules, before '{name}' ran")
            )


@dataclass(slots=True, eq=False)
class Call:
    """A call of a leaf module after the layer, with what went in and what its forward returned."""

    name: str
    module: nn.Module
    taken: Tensor | None  # None where it was not one tensor alone
    output: Tensor | None = None  # None where it was not one tensor
    node: Node | None = None  # of the output, when it was returned
    # Of a module that overwrites its input: the input's node, and whether a hook may hang on it.
    overwrites: tuple[Node | None, bool] | None = None
    link: Link | None = None  # in a forward without a graph


@dataclass(eq=False)
class KnownHead:
    """A head that was recognised: what its modules are, and what each node of its graph does."""

    # That ran after the layer: where it stood, and whether it was in training.
    modules: list[tuple[dict[str, Any], str, nn.Module, bool]]
    # Of each node, from the logits on: its name, kind, and in words.
    roles: list[tuple[str, str, str]]
    compared: set[Any] = field(default_factory=set)  # dtypes and devices found to be autograd's

    def modules_unchanged(self) -> bool:
        """Whether the modules stand where they stood, in the mode that they were in."""
        for siblings, key, module, training in self.modules:
            if siblings.get(key) is not module or module.training is not training:
                return False
        return True


@dataclass(slots=True)
class Trace:
    """The tapped output, what was captured at ``gradient_at``, and the calls that followed."""

    layer: Capture
    gradient: Capture | None = None
    ran_before_gradient: int = 0
    calls: list[Call] = field(default_factory=list)  # in the order in which they began
    compiled: str | None = None  # the first torch.compile'd module after the layer
    chain: MemoryChain | None = None  # of a forward without a graph
    map: Tensor | None = None  # the tapped output as [N,C,H,W], once it was asked for
    scores: list[Tensor] = field(default_factory=list)  # what maps were asked for of
    # Heads of forwards before, and whether modules are watched, as they are if none is known.
    known: list[KnownHead] = field(default_factory=list)
    watched: bool = True
    # When the layer returned; what comes after it in the graph did not exist before.
    handles: int | None = field(default_factory=handles_made)
    _running: list[Call] = field(default_factory=list)

    def no_hook_since(self) -> bool:
        """Whether nobody can have registered a hook on a node after the layer."""
        return self.handles is not None and self.handles == handles_made()

    def __post_init__(self) -> None:
        if isinstance(self.layer.output, Tensor) and not self.layer.output.requires_grad:
            self.chain = MemoryChain(self.layer.output)

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A leaf module is about to run."""
        self._note_overwriter(name, module, returned=False)
        taken = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
        call = Call(name, module, taken)
        if self.chain is not None:
            call.link = self.chain.before(name, module, args)
        elif taken is not None and getattr(module, "inplace", False):
            hooked = is_hooked(taken) or _runs_other_hooks(module)
            call.overwrites = taken.grad_fn, hooked
        if self.compiled is None and is_compiled(module):
            self.compiled = name
        self.calls.append(call)
        self._running.append(call)

    def after(self, name: str, module: nn.Module, output: Any) -> Tensor | None:
        """The leaf module has run, and its own forward returned ``output``; what the rest of the
        network gets, where that is to be a copy."""
        self._note_overwriter(name, module, returned=True)
        running = self._running
        if not running or running[-1].module is not module:
            if not any(call.module is module for call in running):
                return None
            while running[-1].module is not module:
                running.pop()  # left by a forward that raised
        call = running.pop()
        if isinstance(output, Tensor):
            call.output, call.node = output, output.grad_fn
        return None if self.chain is None else self.chain.after(call.link, output)

    def _note_overwriter(self, name: str, module: nn.Module, returned: bool) -> None:
        if self.layer.overwritten():
            self.layer.note_overwriter(name, module, returned)
        if self.gradient is not None and self.gradient.overwritten():
            self.gradient.note_overwriter(name, module, returned)


def _runs_other_hooks(module: nn.Module) -> bool:
    """Whether a pre-hook of someone else may yet touch the input of a module about to run."""
    return not all(is_own(hook) for hook in module._forward_pre_hooks.values())
