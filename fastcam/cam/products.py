"""Products with the weights of a closed-form head, and a cheap way for their gradients to be added.

A weight of the head gets its gradient from two sides: from the layer's own backward, and from the
closed form. Left to autograd, the second is a tensor of its own (151 MB for AlexNet's first linear
layer), written into fresh memory and then added: more time than the product itself takes. Here it
goes straight into the first, as a product with beta = 1 (:class:`FusedAccumulation`, the one place
where this is done), where that is provably the same; otherwise autograd adds the two as usual.

The closed form: docs/method.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.ops.autograd import running_backward

__all__ = ["FusedAccumulation", "first_product", "product"]

# Elements of the largest temporary of a masked first product.
_CHUNK_ELEMENTS = 1 << 20


# What a torch without these private functions does not tell, autograd adds as usual.
_ENGINE_TELLS = all(
    hasattr(torch._C, name) for name in ("_current_graph_task_id", "_will_engine_execute_node")
)


class _Contribution(Protocol):
    """A gradient that has yet to be computed."""

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
        source.register_hook(self._pending.collect)  # holds no node, so that nothing is circular

    @classmethod
    def of(cls, weight: Tensor, layer: Node | None) -> FusedAccumulation | None:
        """For the weight of a layer ``addmm(bias, x, weight.t())``; None if it has no such form.

        Args:
            weight: [J,I], the transposition's output transposed back, so that what is not
                deferred comes to the transposition by autograd.
            layer: the layer's node; None of a forward without a graph.
        """
        if not _ENGINE_TELLS or layer is None or weight.device.type != "cpu":
            return None  # on a GPU the two sides could run on different streams
        transposition = layer.next_functions[-1][0]
        if transposition is None:
            return None
        origin = transposition.next_functions[0][0]
        if origin is None or type(getattr(origin, "variable", None)) is not nn.Parameter:
            return None
        return cls(transposition, layer)

    def defer(self, contribution: _Contribution) -> bool:
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
        return True


def _compiled_backward() -> bool:
    """Whether compiled autograd runs this backward: its order is its own, and hooks are traced."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and bool(getattr(module, "in_compiled_autograd_region", True))


class _Pending:
    def __init__(self) -> None:
        self.task = -1
        self.contribution: _Contribution | None = None
        self.passed: set[int] = set()  # the backwards in which the hook has run

    def collect(self, outputs: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor] | None:
        task = running_backward()
        self.passed.add(task)
        if self.contribution is None or self.task != task:
            return None  # nothing there, or what a backward that failed has left behind
        contribution, self.contribution = self.contribution, None
        grad = outputs[0]
        if grad is None:
            return (contribution.fresh(),)
        if type(grad) is Tensor and grad.is_contiguous() and not grad.requires_grad:
            contribution.add_to(grad)  # made by the layer's own backward just now
            return None
        return (grad + contribution.fresh(),)


def _deferred(accumulation: FusedAccumulation | None, contribution: _Contribution) -> Tensor | None:
    if accumulation is not None and accumulation.defer(contribution):
        return None
    return contribution.fresh()


def _live(grad: Tensor) -> Tensor | None:
    """Indices of the rows that are not zero; None where looking would wait for the device, or all.

    The map of an image that is switched off or dead has no gradient, and needs no product.
    """
    if grad.device.type != "cpu" or torch.is_grad_enabled():
        return None
    rows = grad.ne(0).any(1)
    count = int(rows.sum())
    return rows.nonzero().squeeze(1) if count < len(rows) else None


def _spread(sums: Tensor, positions: int) -> Tensor:
    """[J,C] to [J,C·P]: the gradient of a sum over positions."""
    return sums.unsqueeze(-1).expand(-1, -1, positions).flatten(1)


# ---- v @ W ---------------------------------------------------------------------------------------


@dataclass
class _Outer:
    """vᵀ @ g: [J,I] from [R,J] and [R,I]."""

    v: Tensor
    grad: Tensor

    def fresh(self) -> Tensor:
        return self.v.t() @ self.grad

    def add_to(self, grad: Tensor) -> None:
        grad.addmm_(self.v.t(), self.grad)


class _Product(torch.autograd.Function):
    """v [R,J] @ W [J,I]."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, weight: Tensor, accumulation: FusedAccumulation | None
    ) -> Tensor:
        ctx.save_for_backward(v, weight)
        ctx.accumulation = accumulation
        return v @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        v, weight = ctx.saved_tensors
        rows = len(v)
        live = _live(grad)
        if live is not None:
            v, grad = v[live], grad[live]
        grad_v = grad_weight = None
        if ctx.needs_input_grad[0]:
            # A tall weight times a narrow matrix: up to 1.6 times as fast as the transpose.
            grad_v = (weight @ grad.t().contiguous()).t()
            if live is not None:
                grad_v = grad_v.new_zeros(rows, grad_v.shape[1]).index_copy_(0, live, grad_v)
        if ctx.needs_input_grad[1]:
            grad_weight = _deferred(ctx.accumulation, _Outer(v, grad))
        return grad_v, grad_weight, None


def product(v: Tensor, weight: Tensor, accumulation: FusedAccumulation | None = None) -> Tensor:
    """``v @ weight`` for v [N,T,J] and weight [J,I]; its gradient may be accumulated."""
    if torch.is_autocast_enabled(v.device.type) or not torch.is_grad_enabled():
        return v @ weight  # autocast chooses the dtypes
    rows = _Product.apply(v.flatten(0, 1), weight, accumulation)
    return rows.unflatten(0, v.shape[:2])


# ---- the first layer: v @ W, summed over positions -----------------------------------------------


@dataclass
class _SpreadOuter:
    """vᵀ @ g, the same for all positions: [J,C·P] from [R,J] and [R,C]."""

    v: Tensor
    grad: Tensor
    positions: int

    def fresh(self) -> Tensor:
        return _spread(self.v.t() @ self.grad, self.positions)

    def add_to(self, grad: Tensor) -> None:
        sums = self.v.t() @ self.grad
        grad.view(*sums.shape, self.positions).add_(sums.unsqueeze(-1))


class _SummedProduct(torch.autograd.Function):
    """v [R,J] @ (W [J,C·P] summed over P)."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, weight: Tensor, positions: int, accumulation: FusedAccumulation | None
    ) -> Tensor:
        sums = weight.unflatten(1, (-1, positions)).sum(-1)
        ctx.save_for_backward(v, weight, sums)
        ctx.positions, ctx.accumulation = positions, accumulation
        return v @ sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        v, weight, sums = ctx.saved_tensors
        grad_v = grad_weight = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():  # to be differentiated again
                sums = weight.unflatten(1, (-1, ctx.positions)).sum(-1)
            grad_v = grad @ sums.t()
        if ctx.needs_input_grad[1]:
            grad_weight = _deferred(ctx.accumulation, _SpreadOuter(v, grad, ctx.positions))
        return grad_v, grad_weight, None, None


def _chunks(weight: Tensor, kept: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Hidden rows by the chunk: which, and their Σ_pos W·kept as [N,C,Jc]."""
    channels, positions = kept.shape[1:]
    multipliers = kept.transpose(0, 1)  # [C,N,P]
    whole = weight.unflatten(1, (channels, positions)).permute(1, 2, 0)  # [C,P,J]
    for rows in _slices(weight.shape[0], kept):
        yield rows, torch.bmm(multipliers, whole[:, :, rows]).transpose(0, 1)


def _slices(hidden: int, kept: Tensor) -> list[slice]:
    batch, channels, positions = kept.shape
    size = max(_CHUNK_ELEMENTS // max(channels * max(batch, positions), 1), 16)
    return [slice(start, start + size) for start in range(0, hidden, size)]


@dataclass
class _MaskedOuter:
    """Σ_n,t v[n,t,j]·g[n,t,c]·kept[n,c,p]: [J,C·P]."""

    v: Tensor  # [N,T,J]
    grad: Tensor  # [N,T,C]
    kept: Tensor  # [N,C,P]

    def fresh(self) -> Tensor:
        result = self.v.new_zeros(self.v.shape[2], self.kept[0].numel())
        self.add_to(result)
        return result

    def add_to(self, grad: Tensor) -> None:
        multipliers = self.kept.transpose(0, 1)  # [C,N,P]
        whole = grad.view(-1, *self.kept.shape[1:])  # [J,C,P]
        for rows in _slices(whole.shape[0], self.kept):
            hidden = torch.bmm(self.grad.transpose(1, 2), self.v[:, :, rows])  # [N,C,Jc]
            whole[rows] += torch.bmm(hidden.permute(1, 2, 0), multipliers).transpose(0, 1)


class _MaskedProduct(torch.autograd.Function):
    """Σ_pos (v [N,T,J] @ W [J,C·P])·kept [N,1,C,P], without its T·P products for each image.

    Σ_pos W·kept does not depend on the target: each image pays for it once, and each of its targets
    for a product P times smaller. What is as large as N·J·C is held by the chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, weight: Tensor, kept: Tensor, accumulation: FusedAccumulation | None
    ) -> Tensor:
        ctx.save_for_backward(v, weight, kept)
        ctx.accumulation = accumulation
        result = v.new_zeros(*v.shape[:2], kept.shape[1])
        for rows, sums in _chunks(weight, kept):
            result.baddbmm_(v[:, :, rows], sums.transpose(1, 2))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        v, weight, kept = ctx.saved_tensors
        grad_v = grad_weight = None
        if torch.is_grad_enabled():  # to be differentiated again: the plain way
            spread = (grad.unsqueeze(-1) * kept.unsqueeze(1)).flatten(2)
            return (
                spread @ weight.t(),
                v.flatten(0, 1).t() @ spread.flatten(0, 1),
                None,
                None,
            )
        if ctx.needs_input_grad[0]:
            grad_v = torch.empty_like(v)
            for rows, sums in _chunks(weight, kept):
                grad_v[:, :, rows] = torch.bmm(grad, sums)
        if ctx.needs_input_grad[1]:
            grad_weight = _deferred(ctx.accumulation, _MaskedOuter(v, grad, kept))
        return grad_v, grad_weight, None, None


def first_product(
    v: Tensor,
    weight: Tensor,
    features: tuple[int, int],
    kept: Tensor | None,
    accumulation: FusedAccumulation | None = None,
) -> Tensor:
    """``v @ weight``, times what the dropout in front kept, summed over positions: [B,T,C].

    Args:
        v: [B,T,J].
        weight: [J,C·P].
        features: C and P.
        kept: multipliers [B,C·P]; None for 1.
        accumulation: where the weight's gradient may be added in place.
    """
    positions = features[1]
    plain = torch.is_autocast_enabled(v.device.type)  # autocast chooses the dtypes
    if kept is None:
        if positions == 1:
            return product(v, weight, accumulation)
        if plain or not torch.is_grad_enabled():
            return v @ weight.unflatten(1, features).sum(-1)
        rows = _SummedProduct.apply(v.flatten(0, 1), weight, positions, accumulation)
        return rows.unflatten(0, v.shape[:2])
    if plain or positions == 1 or v.shape[1] == 1:
        masked = product(v, weight, accumulation) * kept.unsqueeze(1)
        return masked if positions == 1 else masked.unflatten(-1, features).sum(-1)
    return _MaskedProduct.apply(v, weight, kept.unflatten(1, features), accumulation)
