"""From the logits back to the tapped layer: the gradient D of every target's score.

Two ways to the same numbers. ``autograd_gradients`` differentiates whatever head there is.
:class:`ClosedForm` multiplies the weights of a head of pooling, flattening, dropout, linear layers
and ReLUs (AlexNet, VGG, ResNet, and any other of that kind), with the ReLU and dropout multipliers
of the forward that was just run. It is read from autograd's graph, compared with autograd where a
model's head is met for the first time, and when in doubt there is none. Either way D stays
differentiable in the head's weights if asked to.

docs/method.md has the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.cam import products
from fastcam.cam.accumulation import FusedAccumulation
from fastcam.cam.head_autograd import autograd_gradients, differentiable_twice, retained_grads
from fastcam.cam.head_graph import bypasses, edge_of, head_steps, known_head_steps
from fastcam.cam.head_processes import check_processes, check_whole
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
from fastcam.cam.trace import Known
from fastcam.ops import checks as check
from fastcam.ops.margins import logits_of, slopes

__all__ = ["ClosedForm", "Head", "autograd_gradients", "head_gradients"]

Head = Literal["auto", "closed", "autograd", "mean_dropout"]
HEADS: tuple[Head, ...] = get_args(Head)


def check_logits(logits: object) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits: expected a torch.Tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"logits: expected a floating-point tensor, got {logits.dtype}")
    if logits.dim() != 2:
        raise ValueError(f"logits: expected shape [N,K], got {list(logits.shape)}")
    return logits


def activations_of(activations: ActivationTap | Tensor, logits: Tensor) -> Tensor:
    """A [N,C,H,W] of an entered tap, or the tensor itself.

    Raises:
        TypeError, ValueError: it does not fit the logits [N,K], or the tap has none.
    """
    if isinstance(activations, ActivationTap):
        activations = activations.activations
    elif not isinstance(activations, Tensor):
        raise TypeError(
            "activations: expected an ActivationTap or a torch.Tensor [N,C,H,W], "
            f"got {type(activations).__name__}"
        )
    if activations.dim() != 4 or activations.shape[0] != logits.shape[0]:
        raise ValueError(
            f"activations: expected shape [{logits.shape[0]},C,H,W] (N of logits), "
            f"got {list(activations.shape)}"
        )
    return activations


def head_gradients(
    logits: Tensor,
    activations: ActivationTap | Tensor,
    targets: Targets,
    *,
    head: Head = "auto",
    create_graph: bool = True,
    needs_graph: bool = True,
    valid: Callable[[], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The activations A and the gradients D of the targets' scores with respect to them.

    Args:
        logits: [N,K], of the forward in which the activations arose.
        activations: an entered tap, or the tensor [N,C,H,W] itself.
        targets: which scores, as :func:`fastcam.cam.targets.resolve` returns them.
        head: see :class:`fastcam.IoUCamLoss`.
        create_graph: keep D differentiable with respect to the head's weights.
        needs_graph: the caller will backpropagate into A, so a forward without a graph is an error
            even where a closed form needs none.
        valid: which pairs count, bool [N,T] on the CPU, for a closed form that then leaves D of the
            others at 0; None where that cannot be known without waiting for a device.

    Returns:
        A [N,C,H,W], and D [N,T,C,H',W']: H'×W' as at the tap's ``gradient_at``; 1×1 from a closed
        form, which holds the sum over positions.

    Raises:
        TypeError, ValueError: the activations do not fit the logits or carry no graph, or ``head``
            asks for a closed form and there is none.
    """
    check.one_of("head", head, HEADS)
    tensor = activations_of(activations, logits)
    tap = activations if isinstance(activations, ActivationTap) else None
    output = tensor if tap is None else tap.output  # which the map may be a view of
    point = output if tap is None else tap.gradient_point
    if needs_graph:
        _has_graph(tap, tensor)
    if tap is not None:
        check_whole(tap)
    if head != "autograd":
        form: ClosedForm | str = "only a tap knows what ran between the activations and the logits"
        source = logits_of(logits)
        end = logits if source is None else source
        if tap is not None:
            form = ClosedForm.of(tap, end, mean_dropout=head == "mean_dropout")
        if isinstance(form, ClosedForm) and tap is not None:
            pairs = valid() if valid is not None and form.is_large(targets) else None
            combined = None if source is None else slopes(source, targets.of_images(source))
            gradients = form.gradients(targets, create_graph, pairs, combined)
            wrong = _differs(tap, logits, end, form, targets, gradients, head, pairs, combined)
            if wrong is None:
                return tensor, gradients
            form = wrong
        if tap is not None and not tap.trace.watched:
            # Once for a tap: the modules were not watched, so that a head like none before cannot
            # be recognised. It is differentiated as it is, a dropout in front included.
            tap.varies()
        elif head != "auto":
            raise ValueError(f"head: expected a head with a closed form for {head!r}, but {form}")
    _has_graph(tap, tensor)
    if not logits.requires_grad:
        raise ValueError(
            "logits: expected the model's output with its graph, got a tensor that does not "
            "require grad (detached, or computed under torch.no_grad?)"
        )
    if tap is not None:
        if point is not output and isinstance(head_steps(tap.trace, point), str):
            point = output  # a hook in between may change the sum over positions
        if point is not output and bypasses(logits, output, point):
            raise ValueError(
                f"gradient_at: the logits depend on '{tap.layer}' by a way around "
                f"'{tap.gradient_at}' too; leave gradient_at out"
            )
        if tap.trace.compiled is not None and create_graph:
            raise ValueError(
                f"logits: '{tap.trace.compiled}', between '{tap.layer}' and the logits, is "
                "compiled, and a compiled region cannot be differentiated twice; keep the head "
                "eager (compile the part before the layer), or use weight_grad='detach'"
            )
    with retained_grads(logits, output, point, tap):
        gradients = autograd_gradients(logits, point, targets, create_graph)
    if create_graph:
        differentiable_twice(gradients, logits, point)
    if tap is not None:
        gradients = tap.gradients(gradients)
    return tensor, gradients


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
    known: Known | None = None  # if it was recognised in a forward before

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
        elif tap.trace.memory is not None and not tap.trace.layer.grad_enabled:
            steps = tap.trace.memory.steps(logits, tap.layer)
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
        first: list[Stage] = [WeightRows(targets.flat(chosen), number=last)]
        if combined is not None:
            rows = combined.flatten(0, 1) if chosen is None else combined[chosen]
            weights.append(rows.to(weights[last].dtype))
            first = [LogitCombinations(number=last + 1), Product(number=last)]
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
            options: Any = {"number": layer}
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


# Of each model: the heads that were compared with autograd, and whether they were the same.
_compared: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}  # 0.05 of 16 bits; TF32 has 10 of 23
_OTHERWISE = "its closed form differs from what autograd finds"


def _differs(
    tap: ActivationTap,
    scores: Tensor,
    logits: Tensor,
    form: ClosedForm,
    targets: Targets,
    gradients: Tensor,
    head: str,
    valid: Tensor | None,
    combined: Tensor | None,
) -> str | None:
    """Compare a head that is met for the first time with autograd; why it has no closed form.

    ``scores`` are the logits, or ``combined`` of them. The weighted sum over the targets is
    compared, which is one differentiation. The verdict is kept with the model, once there was
    anything to compare: not of gradients that are all zero, or not finite.
    """
    where = gradients.dtype, logits.device
    if form.known is not None and where in form.known.compared:
        return None
    if not tap.activations.requires_grad:
        return None  # nothing to compare with
    key = (tap.layer, *where, *form.structure)
    verdicts = _compared.setdefault(tap.model, {})
    if key not in verdicts:
        if logits.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "it was not met before a CUDA graph was captured, where nothing can be compared"
        with torch.inference_mode(False), torch.no_grad():
            if head == "mean_dropout":
                exact = ClosedForm.of(tap, logits)
                if isinstance(exact, str):
                    return exact
                form, gradients = exact, exact.gradients(targets, False, valid, combined)
            verdict = _compare(tap, scores, targets, gradients.detach(), valid)
        if verdict is None:
            return None
        verdicts[key] = verdict
    if not verdicts[key]:
        return _OTHERWISE
    tap.learn(logits, form.steps, where)
    return None


def _compare(
    tap: ActivationTap, logits: Tensor, targets: Targets, got: Tensor, valid: Tensor | None
) -> bool | None:
    """Whether Σ_t c_t D[t] agrees; None where there was nothing to compare."""
    activations = tap.activations
    check_processes(logits, edge_of(activations)[0])
    if got.numel() == 0:
        return None
    shares = torch.linspace(1, 2, targets.count, dtype=logits.dtype, device=logits.device)
    shares = shares.expand(len(logits), -1)
    if valid is not None:
        shares = shares * valid.to(shares.device)
    hot = (targets.one_hot(logits) * shares.t().unsqueeze(-1)).sum(0)
    with retained_grads(logits, activations, activations, tap):
        (wanted,) = torch.autograd.grad(
            logits, activations, hot, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    accurate = torch.promote_types(got.dtype, torch.float32)
    wanted = wanted.to(accurate)
    sums = (got.flatten(2).to(accurate) * shares.to(accurate).unsqueeze(-1)).sum(1)
    error = (sums - wanted.sum((2, 3))).abs().amax()
    scale = wanted.abs().sum((2, 3)).amax()
    if not bool(scale.isfinite() & (scale > 0)):
        return None
    return bool(error <= _TOLERANCE.get(got.dtype, 0.05) * scale)


def _has_graph(tap: ActivationTap | None, tensor: Tensor) -> None:
    if tap is not None and not tap.trace.layer.grad_enabled:
        raise ValueError(
            f"activations: the last forward ran '{tap.layer}' without a graph (torch.no_grad, "
            "inference_mode, or checkpoint(use_reentrant=True)), so nothing can be differentiated; "
            "run it with gradients enabled (torch.enable_grad)"
        )
    if not tensor.requires_grad:
        raise ValueError(
            "activations: expected a tensor in the graph of the logits, got one that does not "
            "require grad"
        )
