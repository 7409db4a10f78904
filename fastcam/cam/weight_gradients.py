"""A cheap way for the gradients that a closed form brings to the head's weights to be added.

A weight of the head gets its gradient from two sides: from the layer's own backward, and from the
closed form. Left to autograd, the second is a tensor of its own (151 MB for AlexNet's first linear
layer), written into fresh memory and then added: more time than the product itself takes. Here it
goes straight into the first, as a product with beta = 1, where that is provably the same; otherwise
autograd adds the two as usual.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.cam.hook_registry import own_handle
from fastcam.ops.autograd import running_backward

__all__ = ["Contribution", "FusedAccumulation", "contributed"]

# Elements of a weight whose second gradient costs more to write and add than a hook to register.
LARGE = 1 << 16
# What a torch without these private functions does not tell, autograd adds as usual.
_ENGINE_TELLS = all(
    hasattr(torch._C, name) for name in ("_current_graph_task_id", "_will_engine_execute_node")
)


class Contribution(Protocol):
    """A gradient that has yet to be computed, and what it is computed of."""

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...
    def fresh(self) -> Tensor: ...
    def add_to(self, grad: Tensor) -> None: ...


class FusedAccumulation:
    """Adds a contribution to a weight's gradient in place, once the layer's own backward made it.

    A hook on ``source``, the autograd node from which that gradient goes to the weight, adds what
    was deferred. Something is deferred only if, in the very backward that runs, the engine will
    execute the layer's own backward, and ``source`` has not run yet; in any other (a backward of
    the map's loss alone, ``torch.autograd.grad`` of other inputs, ``create_graph``) the
    contribution is returned to autograd. The weight's hooks and accumulation see one gradient, the
    sum, as ever.
    """

    def __init__(self, source: Node, layer: Node) -> None:
        self._layer = layer
        self._pending = _Pending()
        # It holds no node, so that nothing is circular.
        own_handle(source.register_hook, self._pending.collect)

    @classmethod
    def of(cls, weight: Tensor, layer: Node | None) -> FusedAccumulation | None:
        """For the weight of a layer ``addmm(bias, x, weight.t())``; None if it has no such form.

        Args:
            weight: [J,I].
            layer: the layer's node; None of a forward without a graph.
        """
        if layer is None or weight.numel() < LARGE or not _ENGINE_TELLS:
            return None
        if not (weight.is_cpu or weight.is_cuda):
            return None
        transposition = layer.next_functions[-1][0]
        if transposition is None:
            return None
        origin = transposition.next_functions[0][0]
        if origin is None or type(getattr(origin, "variable", None)) is not nn.Parameter:
            return None
        return cls(transposition, layer)

    def defer(self, contribution: Contribution) -> bool:
        """Defer a contribution in the backward that runs; False if nothing would add it."""
        pending = self._pending
        task = running_backward()
        if (
            task == -1
            or torch.is_grad_enabled()
            or pending.contribution is not None
            or task in pending.passed
        ):
            return False
        if _compiled_backward() or not torch._C._will_engine_execute_node(self._layer):
            return False
        pending.task, pending.contribution = task, contribution
        pending.stream = _stream(contribution)
        return True


def _stream(contribution: Contribution) -> torch.cuda.Stream | None:
    tensor = contribution.tensors[0]
    return torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None


def _wait(stream: torch.cuda.Stream | None, contribution: Contribution) -> None:
    """Where the layer's own backward runs on another stream than what made the contribution."""
    now = _stream(contribution)
    if now is not None and stream is not None and now != stream:
        now.wait_stream(stream)
        for tensor in contribution.tensors:
            tensor.record_stream(now)


def _compiled_backward() -> bool:
    """Whether compiled autograd runs this backward: its order is its own, and hooks are traced."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and bool(getattr(module, "in_compiled_autograd_region", True))


class _Pending:
    def __init__(self) -> None:
        self.task = -1
        self.contribution: Contribution | None = None
        self.stream: torch.cuda.Stream | None = None
        self.passed: set[int] = set()  # the backwards in which the hook has run

    def collect(self, outputs: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor] | None:
        task = running_backward()
        self.passed.add(task)
        if self.contribution is None or self.task != task:
            return None  # nothing there, or what a backward that failed has left behind
        contribution, self.contribution = self.contribution, None
        _wait(self.stream, contribution)
        grad = outputs[0]
        if grad is None:
            return (contribution.fresh(),)
        if type(grad) is Tensor and grad.is_contiguous() and not grad.requires_grad:
            contribution.add_to(grad)  # made by the layer's own backward just now
            return None
        return (grad + contribution.fresh(),)


def contributed(
    accumulation: FusedAccumulation | None, contribution: Contribution
) -> Tensor | None:
    if accumulation is not None and accumulation.defer(contribution):
        return None
    return contribution.fresh()
