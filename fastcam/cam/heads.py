"""From the logits back to the tapped layer: the gradient D of every target's score.

Two ways to the same numbers. ``autograd_gradients`` differentiates whatever head there is.
:class:`fastcam.cam.closed_form.ClosedForm` multiplies the head's weights; it is compared with
autograd where a model's head is met for the first time, and when in doubt there is none. Either way
D stays differentiable in the head's weights if asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastcam.cam.closed_form import ClosedForm
from fastcam.cam.head_autograd import autograd_gradients, before_backward, differentiable_twice
from fastcam.cam.head_graph import bypasses, edge_of, has_compiled_nodes, head_steps
from fastcam.cam.head_processes import check_processes, refuse_sharded_head
from fastcam.cam.tap import ActivationTap
from fastcam.cam.targets import Targets
from fastcam.cam.trace import is_hooked
from fastcam.ops import checks as check
from fastcam.ops.margins import logits_of, slopes

__all__ = ["Head", "autograd_gradients", "head_gradients"]

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
    source = logits_of(logits)
    if needs_graph:
        _has_graph(tap, tensor)
    if tap is not None:
        tap.trace.scores += [logits] if source is None else [logits, source]
    refuse_sharded_head(tap, logits if source is None else source, create_graph)
    form: ClosedForm | str = ""
    if head != "autograd":
        form = "only a tap knows what ran between the activations and the logits"
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
    _has_graph(tap, tensor, form if isinstance(form, str) else "")
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
    compiled = None if tap is None else tap.trace.compiled
    if create_graph and (compiled is not None or has_compiled_nodes(logits, point)):
        what = "a part" if compiled is None else f"'{compiled}'"
        layer = "the layer" if tap is None else f"'{tap.layer}'"
        raise ValueError(
            f"logits: {what}, between {layer} and the logits, is compiled, and a compiled region "
            "cannot be differentiated twice; keep the head eager (compile the part before the "
            "layer), or use weight_grad='detach'"
        )
    with before_backward([tap] if tap is not None else [], logits, output, point):
        hooked = _may_be_hooked(tap, output, logits)
        gradients = autograd_gradients(
            logits,
            point,
            targets,
            create_graph,
            advice=_OTHER_ACTIVATIONS if tap is None else _OTHER_FORWARD,
            hooked=hooked,
        )
    if create_graph:
        differentiable_twice(gradients, logits, point)
    if tap is not None:
        gradients = tap.gradients(gradients)
    return tensor, gradients


_OTHER_FORWARD = " (within a tap, the last forward wins)"
_OTHER_ACTIVATIONS = (
    "; a cast or view of the activations, or what torch.compile or DistributedDataParallel return "
    "beside the logits, is not what these come from: tap the layer (fastcam.ActivationTap)"
)


def _may_be_hooked(tap: ActivationTap | None, output: Tensor, logits: Tensor) -> bool:
    """Whether somebody may have registered hooks on what lies between the output and the logits."""
    since = tap is not None and not tap.trace.no_hook_since()
    return since or is_hooked(output) or is_hooked(logits)


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
    with before_backward([tap], logits, activations):
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


def _has_graph(tap: ActivationTap | None, tensor: Tensor, not_closed: str = "") -> None:
    if tap is not None and not tap.trace.layer.grad_enabled:
        raise ValueError(
            f"activations: the last forward ran '{tap.layer}' without a graph (torch.no_grad, "
            "inference_mode, or checkpoint(use_reentrant=True)), so nothing can be differentiated; "
            "run it with gradients enabled (torch.enable_grad, which does not end inference_mode; "
            "a Trainer of Lightning's takes inference_mode=False; checkpoint, use_reentrant=False)"
            + (not_closed and f"; only a head of closed form needs no graph, but {not_closed}")
        )
    if not tensor.requires_grad:
        raise ValueError(
            "activations: expected a tensor in the graph of the logits, got one that does not "
            "require grad"
        )
