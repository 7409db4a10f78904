"""The products of a closed-form head, as one function of its weights.

D is a chain of stages v → v from the last linear layer to the first, where v is [B·T,·]: T targets
of each image, or of all images at once (B = 1). There are :class:`WeightRows` of the last weight,
:class:`Multiplied` by what ReLUs and dropouts let through, a :class:`Product` with a weight, a sum
over positions. Each is linear in v, and :func:`chain` runs them as one node of the graph: one for
each operation would keep the host busy for longer.

The closed form: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastcam.cam.weight_gradients import FusedAccumulation, contributed

__all__ = [
    "ByImage",
    "KeptSum",
    "LogitCombinations",
    "MaskedProduct",
    "Multiplied",
    "Output",
    "Product",
    "Stage",
    "SummedProduct",
    "WeightRows",
    "chain",
    "position_sums",
]

# Multiplications of a product of which it is worth knowing which rows are zero.
LARGE = 1 << 22
# Elements of the largest temporary of a masked product.
_CHUNK_ELEMENTS = 1 << 20


def position_sums(weight: Tensor, positions: int) -> Tensor:
    """Σ_p W[j, c·P + p]: [J,C] from [J,C·P].

    On a GPU as a product with ones: a sum over a short last axis reads memory at a fifth of its
    speed there (H200, [4096, 256·36]: 237 µs against 73 in float32, 231 against 40 in bfloat16).
    """
    rows, columns = weight.shape
    channels = columns // positions
    parts = weight.view(rows, channels, positions)
    if not weight.is_cuda:
        return parts.sum(-1)
    with torch.autocast("cuda", enabled=False):
        return torch.mv(parts.flatten(0, 1), weight.new_ones(positions)).view(rows, channels)


def _live(grad: Tensor) -> Tensor | None:
    """Indices of the rows that are not zero; None for all.

    The map of an image that is switched off or dead has no gradient, and needs no product.
    """
    rows = grad.any(1)
    return None if bool(rows.all()) else rows.nonzero().squeeze(1)


Gradients = tuple[Tensor | None, Tensor | None]


@dataclass(eq=False)
class Stage:
    """A linear map of v and, if it has a ``weight_index``, of a layer's weight W [J,I]."""

    weight_index: int | None = field(
        default=None, kw_only=True
    )  # of the weight; 0: the first layer's
    accumulation: FusedAccumulation | None = field(default=None, kw_only=True)

    def forward(self, v: Any, weight: Any) -> Tensor:
        """In operations that autograd knows."""
        raise NotImplementedError

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        """∂/∂v, if ``of_v``, and ∂/∂W, if ``of_weight`` and nothing adds it elsewhere.

        Args:
            grad: ∂/∂(what ``forward`` returned).
            v, weight: what it was given; v of a stage without a weight is None.

        Returns:
            ∂/∂v may have N·T rows where v has T: the images' sum is meant.
        """
        raise NotImplementedError


@dataclass(eq=False)
class WeightRows(Stage):
    """Rows of W: one, or by their index [B·T]. There is no v."""

    index: Tensor | int

    def forward(self, v: Any, weight: Any) -> Tensor:
        if isinstance(self.index, int):
            return weight[self.index : self.index + 1]
        return weight.index_select(0, self.index)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        if not of_weight:
            return None, None
        result = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        if isinstance(self.index, int):
            result[self.index : self.index + 1].copy_(grad)
        else:
            result.index_add_(0, self.index, grad)
        return None, result


@dataclass(eq=False)
class LogitCombinations(Stage):
    """What takes the place of a weight: combinations of the logits [B·T,K]. There is no v."""

    def forward(self, v: Any, weight: Any) -> Tensor:
        return weight

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        return None, grad if of_weight else None


@dataclass(eq=False)
class Multiplied(Stage):
    """By what dropouts multiplied, [B,J] or scalar, and by 0 where a ReLU blocks (bool)."""

    factors: list[Tensor]
    targets: int

    def forward(self, v: Any, weight: Any) -> Tensor:
        if self.targets > 1:
            v = v.unflatten(0, (-1, self.targets))
        for factor in self.factors:
            v = _through(v, factor.unsqueeze(1) if self.targets > 1 and factor.dim() else factor)
        return v.flatten(0, 1) if self.targets > 1 else v

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        return self.forward(grad, None), None


def _through(v: Tensor, factor: Tensor) -> Tensor:
    if factor.dtype == torch.bool:
        return v.masked_fill(factor, 0)
    return v * (factor if factor.dtype == v.dtype else factor.to(v.dtype))


@dataclass(eq=False)
class Product(Stage):
    """v @ W."""

    def forward(self, v: Any, weight: Any) -> Tensor:
        return torch.mm(v, weight)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        grad_v = grad_weight = None
        rows, live = v.shape[0], None
        if large := grad.is_cpu and rows * weight.numel() >= LARGE:
            live = _live(grad)
            if live is not None:
                v, grad = v[live], grad[live]
        if of_v and not large:
            grad_v = torch.mm(grad, weight.t())
        elif of_v:
            # A tall weight times a narrow matrix: up to 1.6 times as fast as the transpose.
            grad_v = (weight @ grad.t().contiguous()).t()
            if live is not None:
                grad_v = grad_v.new_zeros(rows, grad_v.shape[1]).index_copy_(0, live, grad_v)
        if of_weight:
            grad_weight = contributed(self.accumulation, _Outer(v, grad))
        return grad_v, grad_weight


@dataclass
class _Outer:
    """vᵀ @ g: [J,I] from [R,J] and [R,I]."""

    v: Tensor
    grad: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.v, self.grad

    def fresh(self) -> Tensor:
        return self.v.t() @ self.grad

    def add_to(self, grad: Tensor) -> None:
        grad.addmm_(self.v.t(), self.grad)


# ---- the first layer, whose product is summed over positions -------------------------------------


@dataclass(eq=False)
class KeptSum(Stage):
    """v [B·T, C·P], times what a dropout kept, [B,C·P] for T = 1 or None, summed over P."""

    positions: int
    kept: Tensor | None = None

    def forward(self, v: Any, weight: Any) -> Tensor:
        if self.kept is not None:
            v = v * self.kept
        return v if self.positions == 1 else position_sums(v, self.positions)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        if self.positions == 1:
            return (grad if self.kept is None else grad * self.kept), None
        shape = *grad.shape, self.positions
        grad = grad.unsqueeze(-1)
        grad = grad.expand(shape) if self.kept is None else grad * self.kept.view(shape)
        return grad.flatten(1), None


@dataclass(eq=False)
class SummedProduct(Stage):
    """v @ (W [J,C·P] summed over P)."""

    positions: int
    sums: Tensor | None = None

    def forward(self, v: Any, weight: Any) -> Tensor:
        sums = position_sums(weight, self.positions)
        if not torch.is_grad_enabled():
            self.sums = sums
        return v @ sums

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        grad_v = grad_weight = None
        if of_v:
            assert self.sums is not None
            grad_v = grad @ self.sums.t()
        if of_weight:
            outer = _SpreadOuter(v, grad, self.positions)
            grad_weight = contributed(self.accumulation, outer)
        return grad_v, grad_weight


@dataclass
class _SpreadOuter:
    """vᵀ @ g, the same for all positions: [J,C·P] from [R,J] and [R,C]."""

    v: Tensor
    grad: Tensor
    positions: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.v, self.grad

    def fresh(self) -> Tensor:
        sums = self.v.t() @ self.grad
        return sums.unsqueeze(-1).expand(-1, -1, self.positions).flatten(1)

    def add_to(self, grad: Tensor) -> None:
        sums = self.v.t() @ self.grad
        grad.view(*sums.shape, self.positions).add_(sums.unsqueeze(-1))


@dataclass(eq=False)
class MaskedProduct(Stage):
    """Σ_pos (v [N,T,J] @ W [J,C·P])·kept [N,C,P], without its T·P products for each image.

    Σ_pos W·kept does not depend on the target: each image pays for it once, and each of its targets
    for a product P times smaller. What is as large as N·J·C is held by the chunk.
    """

    kept: Tensor
    targets: int

    def _by_image(self, v: Tensor) -> Tensor:
        return v.reshape(-1, self.targets, v.shape[-1]).expand(len(self.kept), -1, -1)

    def forward(self, v: Any, weight: Any) -> Tensor:
        v = self._by_image(v)
        result = v.new_zeros(*v.shape[:2], self.kept.shape[1])
        for rows, sums in _chunks(weight, self.kept):
            result = result.baddbmm(v[:, :, rows], sums.transpose(1, 2))
        return result.flatten(0, 1)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        v, grad = self._by_image(v), self._by_image(grad)
        grad_v = grad_weight = None
        if of_v:
            grad_v = torch.empty_like(v, memory_format=torch.contiguous_format)
            for rows, sums in _chunks(weight, self.kept):
                grad_v[:, :, rows] = torch.bmm(grad, sums)
            grad_v = grad_v.flatten(0, 1)
        if of_weight:
            grad_weight = contributed(self.accumulation, _MaskedOuter(v, grad, self.kept))
        return grad_v, grad_weight


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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.v, self.grad, self.kept

    def fresh(self) -> Tensor:
        result = self.v.new_zeros(self.v.shape[2], self.kept.shape[1] * self.kept.shape[2])
        self.add_to(result)
        return result

    def add_to(self, grad: Tensor) -> None:
        multipliers = self.kept.transpose(0, 1)  # [C,N,P]
        whole = grad.view(-1, *self.kept.shape[1:])  # [J,C,P]
        for rows in _slices(whole.shape[0], self.kept):
            hidden = torch.bmm(self.grad.transpose(1, 2), self.v[:, :, rows])  # [N,C,Jc]
            whole[rows] += torch.bmm(hidden.permute(1, 2, 0), multipliers).transpose(0, 1)


# ---- the end -------------------------------------------------------------------------------------


@dataclass(eq=False)
class ByImage(Stage):
    """Chosen pairs v [R or 1, J] at their places (images, columns) in [N·T,J], 0 elsewhere."""

    chosen: tuple[Tensor, ...]
    pairs: tuple[int, int]

    def forward(self, v: Any, weight: Any) -> Tensor:
        rows = v.expand(len(self.chosen[0]), -1)
        return v.new_zeros(*self.pairs, v.shape[-1]).index_put(self.chosen, rows).flatten(0, 1)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        return grad.unflatten(0, self.pairs)[self.chosen], None


@dataclass(eq=False)
class Output(Stage):
    """v [N·T or T, C] as D [N,T,C,1,1], in its dtype."""

    pairs: tuple[int, int]
    dtype: torch.dtype

    def forward(self, v: Any, weight: Any) -> Tensor:
        images, targets = self.pairs
        v = v.to(self.dtype).reshape(-1, targets, v.shape[-1], 1, 1)
        return v if v.shape[0] == images else v.expand(images, -1, -1, -1, -1)

    def backward(self, grad: Tensor, v: Any, weight: Any, of_v: bool, of_weight: bool) -> Gradients:
        return grad.reshape(-1, grad.shape[2]), None


# ---- all of them ---------------------------------------------------------------------------------


def _run(stages: list[Stage], weights: list[Tensor], taken: list[Any] | None = None) -> Tensor:
    v: Any = None
    for stage in stages:
        if taken is not None:
            taken.append(v)
        v = stage.forward(v, None if stage.weight_index is None else weights[stage.weight_index])
    return v


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stages: list[Stage], *weights: Tensor) -> Tensor:
        taken: list[Tensor] = []
        result = _run(stages, list(weights), taken)
        ctx.stages = stages
        ctx.rows = [None if v is None else (v.shape[0], v.dtype) for v in taken]
        kept = [
            v if s.weight_index is not None else None for s, v in zip(stages, taken, strict=True)
        ]
        ctx.save_for_backward(*weights, *kept)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needed, saved = ctx.needs_input_grad[1:], ctx.saved_tensors
        count = len(needed)
        weights, taken = list(saved[:count]), saved[count:]
        if (
            torch.is_grad_enabled()
        ):  # to be differentiated again: by autograd, operation by operation
            found = iter(
                torch.autograd.grad(
                    _run(ctx.stages, weights),
                    [weight for weight, need in zip(weights, needed, strict=True) if need],
                    grad,
                    create_graph=True,
                )
            )
            return None, *(next(found) if need else None for need in needed)
        result: list[Tensor | None] = [None] * count
        last = max(number for number, need in enumerate(needed) if need)  # in the first such stage
        for number in range(len(ctx.stages) - 1, -1, -1):
            stage = ctx.stages[number]
            own = stage.weight_index is not None and needed[stage.weight_index]
            earlier = stage.weight_index != last
            weight = None if stage.weight_index is None else weights[stage.weight_index]
            grad_v, of_weight = stage.backward(grad, taken[number], weight, earlier, own)
            if own:
                result[stage.weight_index] = of_weight
            if not earlier:
                break
            rows, dtype = ctx.rows[number]
            grad = grad_v
            if grad.shape[0] != rows:
                grad = grad.view(-1, rows, grad.shape[1]).sum(0)
            if grad.dtype != dtype:
                grad = grad.to(dtype)
        return None, *result


def chain(stages: list[Stage], weights: list[Tensor]) -> Tensor:
    """What the last stage returns; differentiable in the weights, W_1 … W_L, any number of times.

    Under autocast, which chooses a dtype for each operation, it is as many nodes as operations, and
    in a loss under ``torch.compile``, which cannot trace what the node keeps.
    """
    if (
        torch.is_autocast_enabled(weights[0].device.type)
        or not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
    ):
        return _run(stages, weights)
    return _Chain.apply(stages, *weights)
