"""The gradient D of every target's score as a product of a head's weights: the closed form.

Of heads of pooling, flattening, dropout, linear layers and ReLUs (AlexNet, VGG, ResNet, and any
other of that kind), with the ReLU and dropout multipliers of the forward that was just run. Which
they are is read from autograd's graph. docs/method.md has the formula.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from fastcam.cam import products
from fastcam.cam.head_graph import head_steps, known_head_steps
from fastcam.cam.layers import Step
from fastcam.cam.products import (
    ByImage,
    KeptSum,
    LogitCombinations,
    MaskedProduct,
    Multiplied,
    Output,
    Product,
    Stage,
    SummedProduct,
    WeightRows,
    chain,
)
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import Targets
from fastcam.cam.trace import KnownHead
from fastcam.cam.weight_gradients import FusedAccumulation

__all__ = ["ClosedForm"]


@dataclass
class ClosedForm:
    """D of a head ``pooling → flatten → (Dropout) → Linear → (ReLU, Dropout) → … → Linear``.

    With m_i the multipliers between linear layers i and i+1 (1 where the ReLU passed, times the
    dropout's scale) and m_0 those of the dropout in front: v = ((W_L[t]·m_{L-1}) @ W_{L-1})·m_{L-2}
    and so on down to m_1, and D summed over positions is Σ_pos (v @ W_1)[c,pos]·m_0[c,pos]. With
    m_0 = 1 the sum moves to W_1, and the widest product shrinks by the number of positions.
    """

    batch: int
    channels: int
    dtype: torch.dtype  # of D
    weights: list[Tensor] = field(default_factory=list)  # W_1 … W_L
    nodes: list[Node | None] = field(default_factory=list)  # of the linear layers, in the graph
    # In front of each linear layer: [N, inputs] or scalars, ReLUs as bool masks of what they block.
    multipliers: list[list[Tensor]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    known: KnownHead | None = None  # if it was recognised in a forward before

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for forwards that ran the same head."""
        return tuple((step.kind, step.what) for step in self.steps)

    @classmethod
    def of(cls, tap: ActivationTap, logits: Tensor, mean_dropout: bool = False) -> ClosedForm | str:
        """The closed form of what ran between the tapped layer and the logits, or why it has none.

        Read from autograd's graph; from the modules that ran only where the layer's forward had no
        graph (see :func:`fastcam.grad_cam_maps` for what that rests on).

        Args:
            tap: entered, after the forward.
            logits: [N,K], the output of that forward.
            mean_dropout: leave out the dropout in front of the first linear layer (m_0 = 1).
        """
        if tap.reshaped:
            return f"the map is not the output of '{tap.layer}' itself, which is reshaped"
        activations, known = tap.activations, None
        steps: list[Step] | str
        if not tap.trace.watched:
            found = known_head_steps(tap.trace, logits)
            if found is None:
                return "it did not run as in the forwards before"
            steps, known = found
        elif activations.requires_grad:
            steps = head_steps(tap.trace, logits)
        elif tap.trace.chain is not None and not tap.trace.layer.grad_enabled:
            steps = tap.trace.chain.steps(logits, tap.layer)
        else:
            steps = f"the output of '{tap.layer}' has no graph"
        if isinstance(steps, str):
            return steps
        form = cls(activations.shape[0], activations.shape[1], activations.dtype)
        maps = True  # [N,C,·,·] still, and nothing multiplied
        group: list[Tensor] = []
        for step in steps:
            if step.kind == "pool" and not maps:
                return f"{step.what} does not come straight after the layer"
            if step.kind == "reshape":
                maps = False
            elif step.kind == "linear":
                wrong = form._append(step, group)
                if wrong is not None:
                    return wrong
                maps, group = False, []
            elif step.kind == "relu" and not form.weights:
                return f"{step.what} comes before the first linear layer"
            elif step.kind in ("relu", "dropout"):
                if not (mean_dropout and not form.weights):
                    if step.factor is None:
                        return f"what {step.what} kept can no longer be seen"
                    group.append(step.factor)
                maps, last = False, step
        if not form.weights:
            return "there is no linear layer between the layer and the logits"
        if group:
            return f"{last.what} changes the logits"
        form.steps, form.known = steps, known
        return form

    def _append(self, step: Step, group: list[Tensor]) -> str | None:
        """Add a linear layer and what multiplies in front of it; why that cannot be."""
        weight = step.weight
        assert weight is not None
        rows, inputs = self.batch, weight.shape[1]
        if step.taken != (rows, inputs) or (not self.weights and inputs % self.channels):
            return f"{step.what} does not act on the flattened features"
        if self.weights and self.weights[0].dtype != weight.dtype:
            return f"the weight of {step.what} is {weight.dtype}, and those before it are not"
        flat = []
        for factor in group:
            if factor.dim() and factor.numel() != rows * inputs:
                return f"what comes before {step.what} does not act on its input"
            as_it_is = factor.dim() == 0 or factor.shape == (rows, inputs)
            flat.append(factor if as_it_is else factor.reshape(rows, inputs))
        self.weights.append(weight)
        self.nodes.append(step.node)
        self.multipliers.append(flat)
        return None

    def is_large(self, targets: Targets) -> bool:
        """Whether leaving pairs out can save more time than it takes to find them."""
        rows = self.batch * targets.count
        return rows * sum(weight.numel() for weight in self.weights[:-1]) >= products.LARGE

    def gradients(
        self,
        targets: Targets,
        create_graph: bool,
        valid: Tensor | None = None,
        combined: Tensor | None = None,
    ) -> Tensor:
        """D summed over positions, [N,T,C,1,1]; expanded over N where all images share it.

        Args:
            targets: T of them.
            create_graph: keep D differentiable with respect to the weights.
            valid: bool [N,T] on the CPU; D of the other pairs is left at 0.
            combined: [N,T,K], for scores that are combinations of the logits (their ∂score/∂logits)
                in place of the logits themselves; differentiable, too.
        """
        pairs = self.batch, targets.count
        if targets.count == 0:
            return self.weights[0].new_zeros(*pairs, self.channels, 1, 1, dtype=self.dtype)
        last = len(self.weights) - 1
        chosen: tuple[Tensor, ...] | None = None
        by_pair = combined is not None or targets.by_image or any(self.multipliers)
        if by_pair and last > 0 and valid is not None and not bool(valid.all()):
            # Each valid pair becomes an image with one target.
            chosen = valid.nonzero(as_tuple=True)
        weights = list(self.weights)
        first: list[Stage] = [WeightRows(targets.flat(chosen), weight_index=last)]
        if combined is not None:
            rows = combined.flatten(0, 1) if chosen is None else combined[chosen]
            weights.append(rows.to(weights[last].dtype))
            first = [LogitCombinations(weight_index=last + 1), Product(weight_index=last)]
        stages = first + self._stages(pairs, chosen, create_graph)
        return chain(stages, weights if create_graph else [weight.detach() for weight in weights])

    def _stages(
        self, pairs: tuple[int, int], chosen: tuple[Tensor, ...] | None, accumulate: bool
    ) -> list[Stage]:
        """From the last linear layer's input to D."""
        last = len(self.weights) - 1
        each = 1 if chosen is not None else pairs[1]
        stages: list[Stage] = []
        for layer in range(last - 1, -1, -1):
            self._multiply(stages, layer + 1, each, chosen)
            weight, node = self.weights[layer], self.nodes[layer]
            options: Any = {"weight_index": layer}
            if accumulate:
                options["accumulation"] = FusedAccumulation.of(weight, node)
            kept = None if layer else _product_of(self.multipliers[0])
            positions = 1 if layer else weight.shape[1] // self.channels
            if kept is None:
                stages.append(
                    Product(**options) if positions == 1 else SummedProduct(positions, **options)
                )
                continue
            if chosen is not None and pairs[1] > 1:
                stages.append(ByImage(chosen, pairs))
                chosen, each = None, pairs[1]
            elif chosen is not None:
                kept = _of_images(kept, chosen[0])
            rows = self.batch if chosen is None else len(chosen[0])
            kept = kept.to(weight.dtype)
            if kept.shape != (rows, weight.shape[1]):
                kept = kept.expand(rows, weight.shape[1])
            if each == 1:
                stages += [Product(**options), KeptSum(positions, kept)]
            elif positions == 1:
                stages += [Product(**options), Multiplied([kept], each)]
            else:
                kept = kept.unflatten(1, (self.channels, -1))
                stages.append(MaskedProduct(kept, each, **options))
        if last == 0:
            self._multiply(stages, 0, each, chosen)
            stages.append(KeptSum(self.weights[0].shape[1] // self.channels))
        if chosen is not None:
            stages.append(ByImage(chosen, pairs))
        stages.append(Output(pairs, self.dtype))
        return stages

    def _multiply(
        self, stages: list[Stage], layer: int, targets: int, chosen: tuple[Tensor, ...] | None
    ) -> None:
        """By what multiplies in front of a layer."""
        factors = self.multipliers[layer][::-1]
        if factors and chosen is not None:
            factors = [_of_images(factor, chosen[0]) for factor in factors]
        if factors:
            stages.append(Multiplied(factors, targets))


def _of_images(factor: Tensor, images: Tensor) -> Tensor:
    return factor[images] if factor.dim() else factor


def _product_of(factors: list[Tensor]) -> Tensor | None:
    result: Tensor | None = None
    for factor in factors:
        result = factor if result is None else result * factor
    return result
