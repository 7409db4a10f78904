"""From the logits back to the tapped layer: the gradient D of every target's score.

Two ways to the same numbers. ``autograd_gradients`` differentiates whatever head there is.
:class:`ClosedForm` multiplies the weights of a head of pooling, flattening, dropout, linear layers
and ReLUs (AlexNet, VGG, ResNet, and any other of that kind), with the ReLU and dropout multipliers
of the forward that was just run; it is recognised from what the tap saw run, and when in doubt
there is none. Either way D stays differentiable in the head's weights if asked to.

Source: specification §2.1 and §2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from fastcam import _checks as check
from fastcam import functional
from fastcam._head_products import Meeting, first_product, product
from fastcam._targets import Targets, resolve
from fastcam._trace import Call, Trace, describe
from fastcam.tap import ActivationTap

__all__ = ["HEADS", "ClosedForm", "autograd_gradients", "class_activation_maps", "head_gradients"]

HEADS = ("auto", "closed", "autograd", "mean_dropout")


def check_logits(logits: object) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits: expected a torch.Tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"logits: expected a floating-point tensor, got {logits.dtype}")
    if logits.dim() != 2:
        raise ValueError(f"logits: expected shape [N,K], got {list(logits.shape)}")
    return logits


def head_gradients(
    logits: Tensor,
    activations: ActivationTap | Tensor,
    targets: Targets,
    *,
    head: str = "auto",
    create_graph: bool = True,
    needs_graph: bool = True,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The activations A and the gradients D of the targets' scores with respect to them.

    Args:
        logits: [N,K], of the forward in which the activations arose.
        activations: an entered tap, or the tensor [N,C,H,W] itself.
        targets: which scores, as :func:`fastcam._targets.resolve` returns them.
        head: see :class:`fastcam.IoUCamLoss`.
        create_graph: keep D differentiable with respect to the head's weights.
        needs_graph: the caller will backpropagate into A, so a forward without a graph is an error
            even where a closed form needs none.
        valid: bool [N,T]; of the pairs that are not, a closed form may leave D at 0.

    Returns:
        A [N,C,H,W], and D [N,T,C,H',W']: H'×W' as at the tap's ``gradient_at``; 1×1 from a closed
        form, which holds the sum over positions.

    Raises:
        TypeError, ValueError: the activations do not fit the logits or carry no graph, or ``head``
            asks for a closed form and there is none.
    """
    check.one_of("head", head, HEADS)
    tap = activations if isinstance(activations, ActivationTap) else None
    if tap is not None:
        tensor, point = tap.activations, tap.gradient_point
    elif isinstance(activations, Tensor):
        tensor = point = activations
    else:
        raise TypeError(
            "activations: expected an ActivationTap or a torch.Tensor [N,C,H,W], "
            f"got {type(activations).__name__}"
        )
    if tensor.dim() != 4 or tensor.shape[0] != logits.shape[0]:
        raise ValueError(
            f"activations: expected shape [{logits.shape[0]},C,H,W] (N of logits), "
            f"got {list(tensor.shape)}"
        )
    if needs_graph:
        _has_graph(tap, tensor)
    if head != "autograd":
        form = (
            ClosedForm.of(tap, logits, mean_dropout=head == "mean_dropout")
            if tap is not None
            else "only a tap knows what ran between the activations and the logits"
        )
        if isinstance(form, ClosedForm):
            return tensor, form.gradients(targets, create_graph, valid)
        if head != "auto":
            raise ValueError(f"head: expected a head with a closed form for {head!r}, but {form}")
    _has_graph(tap, tensor)
    if not logits.requires_grad:
        raise ValueError(
            "logits: expected the model's output with its graph, got a tensor that does not "
            "require grad (detached, or computed under torch.no_grad?)"
        )
    if tap is not None:
        _no_way_around(tap, logits)
        if tap.trace.compiled is not None and create_graph:
            raise ValueError(
                f"logits: '{tap.trace.compiled}', between '{tap.layer}' and the logits, is "
                "compiled, and a compiled region cannot be differentiated twice; keep the head "
                "eager (compile the part before the layer), or use weight_grad='detach'"
            )
    return tensor, autograd_gradients(logits, point, targets, create_graph)


def autograd_gradients(
    logits: Tensor, point: Tensor, targets: Targets, create_graph: bool
) -> Tensor:
    """D by differentiating the head, [N,T,C,H',W'].

    All targets go in one batched call, which on a fully connected head is 1.5 (T = 2) to 6 (T = 40)
    times as fast as a loop and never much slower. Where a layer of the head cannot be batched, a
    loop does it. The graph is kept, ``.grad`` is not touched.

    Raises:
        ValueError: the logits do not depend on ``point``.
    """
    batch = logits.shape[0]
    if batch == 0 or targets.count == 0:
        return point.new_zeros(batch, targets.count, point.shape[1], 1, 1)
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
                "logits: do not depend on the activations; pass the logits and the activations of "
                "the same forward (within a tap, the last forward wins)"
            )
        return gradient

    if targets.count == 1:
        return differentiate(hot[0], batched=False).unsqueeze(1)
    try:
        return differentiate(hot, batched=True).transpose(0, 1)
    except RuntimeError:  # an operation without a batching rule; a true error comes back below
        return torch.stack([differentiate(row, batched=False) for row in hot], dim=1)


@dataclass
class ClosedForm:
    """D of a head ``pooling → flatten → (Dropout) → Linear → (ReLU, Dropout) → … → Linear``.

    With m_i the multipliers between linear layers i and i+1 (1 where the ReLU passed, times the
    dropout's scale) and m_0 those of the dropout in front: v = ((W_L[t]·m_{L-1}) @ W_{L-1})·m_{L-2}
    and so on down to m_1, and D summed over positions is Σ_pos (v @ W_1)[c,pos]·m_0[c,pos]. With
    m_0 = 1 the sum moves to W_1, and the widest product shrinks by the number of positions.
    """

    batch: int
    features: tuple[int, int]  # channels, positions at the flatten
    weights: list[Tensor] = field(default_factory=list)  # W_1 … W_L
    outputs: list[Node | None] = field(default_factory=list)  # of the linear layers, in the graph
    first: Tensor | None = None  # m_0 [N, channels·positions], None for 1
    between: list[Tensor | None] = field(default_factory=list)  # m_1 … m_{L-1}

    @classmethod
    def of(cls, tap: ActivationTap, logits: Tensor, mean_dropout: bool = False) -> ClosedForm | str:
        """The closed form of what ran between the tapped layer and the logits, or why it has none.

        Args:
            tap: entered, after the forward.
            logits: [N,K], the output of that forward.
            mean_dropout: leave out the dropout in front of the first linear layer (m_0 = 1).
        """
        end = tap.trace.find(logits)
        if end is None:
            return _where_it_ended(tap.trace)
        batch, channels, height, width = tap.activations.shape
        shape = torch.Size((batch, channels, height, width))
        weights: list[Tensor] = []
        outputs: list[Node | None] = []
        groups: list[list[Call]] = [[]]  # what multiplies before each linear layer
        for call in end.path():
            what = describe(call.name, call.module)
            if call.kind == "pool":
                shape = call.output.shape
                if weights or groups[0] or len(shape) != 4:
                    return f"{what} does not come straight after the layer"
            elif call.kind == "linear" and call.weight is not None:
                if call.output.shape != (batch, call.weight.shape[0]):
                    return f"{what} does not act on the flattened features"
                if not weights and call.weight.shape[1] != shape[1:].numel():
                    return f"{what} does not act on the flattened features"
                if call.weight._version != call.weight_version:
                    return f"the weight of {what} changed after the forward"
                weights.append(call.weight)
                outputs.append(call.target.node if call.target is not None else None)
                groups.append([])
            elif call.kind == "relu" and not weights:
                return f"{what} comes before the first linear layer"
            elif call.kind == "relu" or call.probability > 0:
                groups[-1].append(call)
        if not weights:
            return "there is no linear layer between the layer and the logits"
        if groups[-1]:
            return f"{describe(groups[-1][-1].name, groups[-1][-1].module)} changes the logits"
        multipliers: list[Tensor | None] = []
        for number, group in enumerate(groups[:-1]):
            multiplier = None if mean_dropout and number == 0 else _multiplier(group)
            if isinstance(multiplier, str):
                return multiplier
            multipliers.append(multiplier)
        features = shape[1], shape[2] * shape[3]
        return cls(batch, features, weights, outputs, multipliers[0], multipliers[1:])

    def gradients(
        self, targets: Targets, create_graph: bool, valid: Tensor | None = None
    ) -> Tensor:
        """D summed over positions, [N,T,C,1,1]; expanded over N where all images share it.

        Args:
            targets: T of them.
            create_graph: keep D differentiable with respect to the weights.
            valid: bool [N,T] on the CPU; D of the other pairs is left at 0.
        """
        channels, _ = self.features
        pairs = self.batch, targets.count
        weights = self.weights if create_graph else [weight.detach() for weight in self.weights]
        v = targets.rows(weights[-1])
        between, first, chosen = self.between, self.first, None
        by_pair = v.shape[0] > 1 or any(m is not None for m in between) or first is not None
        if by_pair and len(weights) > 1 and valid is not None and not bool(valid.all()):
            # Each valid pair becomes an image with one target.
            chosen = valid.nonzero(as_tuple=True)
            images, columns = chosen
            if v.shape[0] > 1 or v.shape[1] > 1:
                v = v[images if v.shape[0] > 1 else 0, columns].unsqueeze(1)
            between = [None if m is None else m[images] for m in between]
            first = None if first is None else first[images]
        for layer in range(len(weights) - 2, -1, -1):
            multiplier = between[layer]
            if multiplier is not None:
                v = v * multiplier.to(v.dtype).unsqueeze(1)
            meeting = Meeting.of(weights[layer], self.outputs[layer]) if create_graph else None
            if layer > 0:
                v = product(v, weights[layer], meeting)
                continue
            kept = first
            if chosen is not None and kept is not None and targets.count > 1:
                v, kept, chosen = _by_image(v, chosen, pairs), self.first, None
            if kept is not None:
                kept = kept.to(v.dtype).flatten(1)
            v = first_product(v, weights[0], self.features, kept, meeting)
        if len(weights) == 1:
            if first is not None:
                v = v * first.to(v.dtype).flatten(1).unsqueeze(1)
            if v.shape[-1] != channels:
                v = v.unflatten(-1, self.features).sum(-1)
        if chosen is not None:
            v = _by_image(v, chosen, pairs)
        return v.expand(*pairs, channels)[..., None, None]


def _by_image(v: Tensor, chosen: tuple[Tensor, ...], pairs: tuple[int, int]) -> Tensor:
    """Rows of the chosen pairs [R or 1, 1, J] at their places among all [N,T,J], 0 elsewhere."""
    images, columns = chosen
    rows = v.squeeze(1).expand(len(images), -1)
    return v.new_zeros(*pairs, v.shape[-1]).index_put((images, columns), rows)


def _multiplier(group: list[Call]) -> Tensor | str | None:
    """What the ReLUs and active dropouts of a group multiply by; why it is unknown; None for 1."""
    if not group:
        return None
    last = group[-1]
    if any(call.kind == "relu" for call in group) and last.untouched():
        # What passed the ReLU and was kept is not zero at the end; only there can both have let a
        # gradient through. A dropout of everything (p = 1) leaves zeros.
        scale = 1.0
        for call in group:
            if 0 < call.probability < 1:
                scale /= 1 - call.probability
        passed = last.output.detach().ne(0)
        dtype = last.output.dtype
        return passed.to(dtype if scale == 1 else torch.promote_types(dtype, torch.float32)) * scale
    product: Tensor | None = None
    for call in group:
        factor = _observed(call) if call.kind == "dropout" else None
        if factor is None:
            return f"what {describe(call.name, call.module)} kept can no longer be seen"
        product = factor if product is None else product * factor
    return product


def _observed(dropout: Call) -> Tensor | None:
    """A dropout's multipliers, where its input was zero too: what it makes of a gradient of 1."""
    if dropout.source is None or dropout.target is None:
        return None
    (factor,) = torch.autograd.grad(
        [dropout.target],
        [dropout.source],
        [torch.ones_like(dropout.output.detach(), memory_format=torch.contiguous_format)],
        retain_graph=True,
        allow_unused=True,
    )
    return factor


def _where_it_ended(trace: Trace) -> str:
    if trace.outside is not None:
        return f"after '{trace.layer.name}' ran {trace.outside}"
    last = trace.calls[-1] if trace.calls else None
    after = describe(last.name, last.module) if last else f"'{trace.layer.name}'"
    return f"code outside of modules changed what {after} returned before it became the logits"


def class_activation_maps(
    logits: Tensor,
    activations: ActivationTap | Tensor,
    targets: object = None,
    *,
    head: str = "auto",
    normalize: bool = True,
) -> Tensor:
    """Grad-CAM of any number of targets, for looking at (no graph is kept).

    Where the head has a closed form the forward may run under ``torch.no_grad``.

    Args:
        logits: [N,K].
        activations: an entered tap, or the tensor [N,C,H,W] that the logits were computed from.
        targets: an int, [T] for all images, [N,T], or None for all K.
        head: see :class:`fastcam.IoUCamLoss`.
        normalize: divide each map by its maximum.

    Returns:
        [N,T,H,W], detached.

    Raises:
        TypeError, ValueError: as :class:`fastcam.IoUCamLoss`.
    """
    check_logits(logits)
    chosen = resolve(targets, logits)
    tensor, gradients = head_gradients(
        logits, activations, chosen, head=head, create_graph=False, needs_graph=False
    )
    return functional.grad_cam(tensor.detach(), gradients.detach(), normalize)


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


def _no_way_around(tap: ActivationTap, logits: Tensor) -> None:
    """With ``gradient_at``: do the logits depend on the activations other than through it?

    Walks autograd's graph from the logits and stops at ``gradient_at``, so it sees the head's nodes
    only, unless some path does lead around.
    """
    activations, point = tap.activations, tap.gradient_point
    if point is activations:
        return
    wanted, wall = get_gradient_edge(activations).node, get_gradient_edge(point).node
    seen, stack = {wall}, [logits.grad_fn]
    while stack:
        node = stack.pop()
        if node is wanted:
            raise ValueError(
                f"gradient_at: the logits depend on '{tap.layer}' by a way around "
                f"'{tap.gradient_at}' too; leave gradient_at out"
            )
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
