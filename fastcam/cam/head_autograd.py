"""D by differentiating the head, whatever it is, and what torch cannot do of that.

Which layers may lie between: docs/method.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastcam.cam.head_graph import edge_of, has_python_nodes, no_second_derivative
from fastcam.cam.head_processes import check_processes
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import Targets

__all__ = [
    "autograd_gradients",
    "before_backward",
    "differentiable_twice",
    "remedy_for",
    "twice_differentiable",
]


def autograd_gradients(
    logits: Tensor,
    point: Tensor,
    targets: Targets,
    create_graph: bool,
    what: str = "activations",
    advice: str = "",
    hooked: bool = False,
) -> Tensor:
    """D by differentiating the head: [N,T,*] at a point [N,*]; ``what`` that is, and what to do
    where the logits do not depend on it, in errors.

    All targets go in one batched call, which on a fully connected head is 1.5 (T = 2) to 6 (T = 40)
    times as fast as a loop, and of convolutions on a CPU .7 to 1.3 times. Where an operation of the
    head has no batching rule, or hooks may keep what passes (``hooked``), which outlives no batch,
    a loop does it. The graph is kept, ``.grad`` is not touched.

    Raises:
        ValueError: the logits do not depend on ``point``, or as :func:`check_processes`.
    """
    check_processes(logits, edge_of(point)[0], twice=create_graph)
    batch = logits.shape[0]
    if batch == 0 or targets.count == 0:
        return point.new_zeros(batch, targets.count, *point.shape[1:])
    hot = targets.one_hot(logits)

    def differentiate(grad_outputs: Tensor, batched: bool) -> Tensor:
        (gradient,) = torch.autograd.grad(
            logits,
            point,
            grad_outputs,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
        if gradient is None:
            raise ValueError(
                f"logits: do not depend on the {what}; pass the logits and the {what} of the same "
                f"forward{advice}"
            )
        return gradient

    if targets.count == 1:
        return differentiate(hot[0], batched=False).unsqueeze(1)
    if hooked or has_python_nodes(logits, point):
        return torch.stack([differentiate(row, batched=False) for row in hot], dim=1)
    try:
        return differentiate(hot, batched=True).transpose(0, 1)
    except RuntimeError as error:
        if not _lacks_a_batching_rule(error):
            raise
        return torch.stack([differentiate(row, batched=False) for row in hot], dim=1)


def _lacks_a_batching_rule(error: RuntimeError) -> bool:
    """Whether an error comes of batching itself; of any other (memory!) a loop would not help."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    words = str(error).lower()
    return any(word in words for word in ("vmap", "batching", "batched", "have storage"))


def differentiable_twice(gradients: Tensor, logits: Tensor, point: Tensor) -> None:
    """Say now, not in the backward, that D cannot be differentiated."""
    name = no_second_derivative(gradients, logits, point)
    if name is not None:
        raise ValueError(
            f"logits: torch cannot differentiate {name} twice, which lies between the layer and "
            "the logits, so the loss cannot reach the weights through the map's channel weights; "
            f"use weight_grad='detach'{remedy_for(name, ', or ')}"
        )


def remedy_for(name: str, before: str = "") -> str:
    """What to do about an operation that cannot be differentiated twice; empty if that is not
    known."""
    if name.startswith("ScaledDotProduct"):
        return (
            f"{before}run the forward under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), whose "
            "attention can be differentiated twice"
        )
    if name == "hardsigmoid":
        return f"{before}let the network compute it as torch.nn.functional.relu6(x + 3) / 6"
    return ""


def twice_differentiable() -> AbstractContextManager[None]:
    """In it, attention runs as what torch can differentiate twice; nothing else changes."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def before_backward(taps: Iterable[ActivationTap], *tensors: Tensor) -> Iterator[None]:
    """For a differentiation of a loss's own: what passes is not yet the step's backward.

    Tensors that retain their ``.grad``, of ``tensors`` and of what the taps have seen, keep it. (A
    batched D would leave one of another shape there, to which nothing can be added.)
    """
    kept: list[Tensor | None] = list(tensors)
    for trace in (tap.trace for tap in taps):
        kept += [trace.layer.output, trace.map, *trace.scores]
        for call in trace.calls:
            kept += [call.taken, call.output]
    retaining = {id(t): (t, t.grad) for t in kept if isinstance(t, Tensor) and t.retains_grad}
    for tensor, _ in retaining.values():
        tensor.grad = None
    try:
        with _passing_fabric():
            yield
    finally:
        for tensor, grad in retaining.values():
            tensor.grad = grad


@contextmanager
def _passing_fabric() -> Iterator[None]:
    """Past the hook of Lightning's Fabric on what its wrapper returns, which beside mixed precision
    takes every differentiation for a ``loss.backward()`` in place of ``fabric.backward(loss)``."""
    found: list[Any] = [sys.modules.get(name) for name in _FABRICS]
    fabrics = [(of, getattr(of, _IN_BACKWARD)) for of in found if hasattr(of, _IN_BACKWARD)]
    for of, _ in fabrics:
        setattr(of, _IN_BACKWARD, True)
    try:
        yield
    finally:
        for of, before in fabrics:
            setattr(of, _IN_BACKWARD, before)


_FABRICS = "lightning.fabric.wrappers", "lightning_fabric.wrappers"
_IN_BACKWARD = "_in_fabric_backward"
