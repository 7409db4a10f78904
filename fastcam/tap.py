"""``ActivationTap``: the activations of one layer, and what the head does with them, in a forward.

The tap only watches: it changes no value, draws no random number, leaves the model's mode, its
gradients and the user's own hooks alone, and takes its hooks away when it is left. Behind a frozen
trunk the layer's output becomes an alias that requires grad: there would be no gradient to take.
"""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fastcam._autograd import running_backward
from fastcam._head_graph import only_pools
from fastcam._layers import describe, is_compiled, sums_survive
from fastcam._trace import Capture, Trace

__all__ = ["ActivationTap"]


class ActivationTap:
    """Context manager that keeps a layer's output of the last forward, for a loss on its Grad-CAM.

    ::

        with ActivationTap(model, "features.11", gradient_at="features.12") as tap:
            logits = model(images)
            loss = criterion(logits, tap, regions, targets=36)
        loss.backward()

    It can be entered again and again; within one entry the last forward wins. The references are
    dropped on exit (a loss computed before keeps its own graph, so ``backward`` may come after).

    Args:
        model: the network, as it is: torchvision's AlexNet, VGG and ResNet need no change. Of a
            ``DistributedDataParallel`` give ``model.module``, or start the names with ``module.``.
        layer: name of the module (as in ``model.named_modules()``) whose output [N,C,H,W] is the
            target of Grad-CAM. A module that is called several times in a forward counts with its
            last call.
        gradient_at: name of a module after ``layer`` at whose output the gradient of the scores is
            taken. Only pooling may lie in between (max pooling, and average pooling whose weights
            sum to one): the sums over positions, and so the map, are the same there, at fewer
            bytes. None takes the gradient at ``layer``.

    Raises:
        TypeError: model is no module, or a name no string.
        ValueError: there is no such module, or it lies inside a ``torch.compile``'d module, which
            hides what its submodules return.

    Source: Y §2; specification §2.1.
    """

    def __init__(self, model: nn.Module, layer: str, gradient_at: str | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if any(isinstance(module, nn.DataParallel) for module in model.modules()):
            raise ValueError(
                "model: DataParallel runs copies of the model that cannot be tapped; "
                "use DistributedDataParallel"
            )
        self.model = model
        self.layer = layer
        self.gradient_at = None if gradient_at == layer else gradient_at
        _resolve(model, "layer", layer)
        if self.gradient_at is not None:
            _resolve(model, "gradient_at", self.gradient_at)
        self._handles: list[Any] = []
        self._trace: Trace | None = None

    def __repr__(self) -> str:
        after = f", gradient_at={self.gradient_at!r}" if self.gradient_at else ""
        return f"{type(self).__name__}({type(self.model).__name__}, {self.layer!r}{after})"

    def __enter__(self) -> ActivationTap:
        if self._handles:
            raise RuntimeError(f"{self!r} is entered already")
        target = _resolve(self.model, "layer", self.layer)
        try:
            self._watch(self.model, before=_on_forward)
            for name, module in _leaves(self.model):
                self._watch(module, before=_on_call(name), after=_on_return(name))
            self._watch(target, captures=_on_layer)
            if self.gradient_at is not None:
                point = _resolve(self.model, "gradient_at", self.gradient_at)
                self._watch(point, captures=_on_gradient)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    @property
    def activations(self) -> Tensor:
        """The layer's output [N,C,H,W] in the last forward, in its graph.

        Raises:
            ValueError: no forward reached the layer while the tap was entered, or a later module
                overwrote the output in place.
            TypeError: the layer's output is no floating-point tensor.
        """
        return _usable(self.trace.layer, "layer")

    @property
    def gradient_point(self) -> Tensor:
        """The tensor with respect to which the scores are differentiated: at ``gradient_at``.

        Raises:
            ValueError, TypeError: as :attr:`activations`; or ``gradient_at`` did not run after the
                layer, or something other than pooling ran in between.
        """
        activations, trace = self.activations, self.trace
        if self.gradient_at is None:
            return activations
        if trace.gradient is None:
            raise ValueError(
                f"gradient_at: '{self.gradient_at}' did not run after '{self.layer}' "
                "in the last forward"
            )
        point = _usable(trace.gradient, "gradient_at")
        _only_pooling(trace, point)
        return point

    @property
    def trace(self) -> Trace:
        """What ran from the layer on in the last forward."""
        if not self._handles:
            raise ValueError(
                f"activations: {self!r} is not entered (what it held was dropped on exit); "
                "compute the loss inside the with block"
            )
        if self._trace is None:
            raise ValueError(
                f"activations: '{self.layer}' did not run in the last forward of the tapped model, "
                "or ran where its output cannot be seen (inside a torch.compile'd region: compile "
                "the part before the layer, and leave the rest eager)"
            )
        return self._trace

    def _watch(
        self,
        module: nn.Module,
        before: _Action | None = None,
        after: _Action | None = None,
        captures: _Action | None = None,
    ) -> None:
        reference = weakref.ref(self)
        if before is not None:
            # The model's own pre-hook comes first; a leaf's comes last, to see the input as it is.
            handle = module.register_forward_pre_hook(
                _pre_hook(reference, module, before), prepend=module is self.model
            )
            self._handles.append(handle)
        if after is not None:  # first: a user's hook that changes the output then breaks the trace
            hook = _post_hook(reference, module, after)
            self._handles.append(module.register_forward_hook(hook, prepend=True))
        if captures is not None:
            hook = _post_hook(reference, module, captures)
            self._handles.append(module.register_forward_hook(hook))

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._trace = None


_Action = Callable[[ActivationTap, nn.Module, Any], Any]


def _counts(module: nn.Module, own: int) -> bool:
    """Whether a call belongs to the forward: it is not the recomputation that activation
    checkpointing runs in a backward, nor a call of a copied model that took the hooks along."""
    return running_backward() == -1 and id(module) == own


def _pre_hook(
    reference: weakref.ref[ActivationTap], watched: nn.Module, action: _Action
) -> Callable[[nn.Module, Any], None]:
    own = id(watched)

    def hook(module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not _counts(module, own):
            return  # a compiled region shows no tensors; the tap treats its wrapper as one module
        tap = reference()
        if tap is not None:
            action(tap, module, args)

    return hook


def _post_hook(
    reference: weakref.ref[ActivationTap], watched: nn.Module, action: _Action
) -> Callable[[nn.Module, Any, Any], Any]:
    own = id(watched)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if torch.compiler.is_compiling() or not _counts(module, own):
            return None
        tap = reference()
        return None if tap is None else action(tap, module, output)

    return hook


def _on_forward(tap: ActivationTap, module: nn.Module, args: Any) -> None:
    tap._trace = None


def _on_call(name: str) -> _Action:
    def action(tap: ActivationTap, module: nn.Module, args: Any) -> None:
        trace = tap._trace
        if trace is not None:
            _refuse_overwrite_of_leaf(trace, name, module, args)
            trace.before(name, module, args)

    return action


def _on_return(name: str) -> _Action:
    def action(tap: ActivationTap, module: nn.Module, output: Any) -> None:
        if tap._trace is not None:
            tap._trace.after(name, module, output)

    return action


def _on_layer(tap: ActivationTap, module: nn.Module, output: Any) -> Tensor | None:
    rooted = None
    if (
        isinstance(output, Tensor)
        and torch.is_grad_enabled()
        and not output.requires_grad
        and output.is_floating_point()
        and not output.is_inference()
    ):
        # Nothing before the layer is trained, but the map depends on the head too, through D. An
        # alias carries the graph from here on, so that no tensor of the user's starts to need one.
        output = rooted = output.detach().requires_grad_()
    tap._trace = Trace(Capture.of(tap.layer, output))
    return rooted


def _on_gradient(tap: ActivationTap, module: nn.Module, output: Any) -> None:
    if tap._trace is not None:
        tap._trace.gradient = Capture.of(tap.gradient_at or "", output)
        tap._trace.ran_before_gradient = len(tap._trace.calls)


def _refuse_overwrite_of_leaf(trace: Trace, name: str, module: nn.Module, args: Any) -> None:
    """torch's own message for this (a leaf in an in-place operation) would not help anyone."""
    layer = trace.layer.output
    if (
        getattr(module, "inplace", False)
        and any(argument is layer for argument in args)
        and layer.requires_grad
        and layer.is_leaf
    ):
        raise _overwritten("layer", trace.layer.name, name, describe(name, module))


def _overwritten(argument: str, name: str, culprit: str | None, words: str) -> ValueError:
    instead = f"'{culprit}'" if culprit else "the module that holds both"
    return ValueError(
        f"{argument}: the output of '{name}' was overwritten in place by {words}; "
        f"tap {instead} instead"
    )


def _usable(capture: Capture, argument: str) -> Tensor:
    output = capture.output
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"{output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"{argument}: expected '{capture.name}' to return one floating-point tensor, got {got}"
        )
    if output.dim() != 4:
        raise ValueError(
            f"{argument}: expected '{capture.name}' to return a tensor [N,C,H,W], "
            f"got shape {list(output.shape)}"
        )
    if capture.overwritten():
        raise _overwritten(
            argument, capture.name, *(capture.culprit or (None, "code outside of modules"))
        )
    return output


def _only_pooling(trace: Trace, point: Tensor) -> None:
    """Check §2.1: nothing but pooling between the layer and gradient_at, and no way around it."""
    assert trace.gradient is not None
    layer, at = trace.layer.name, trace.gradient.name
    ran = [(call.name, call.module) for call in trace.calls[: trace.ran_before_gradient]]
    if trace.memory is None:
        if only_pools(trace, point):
            return
    else:
        link = next((c for c in trace.memory.links if c.output is point and c.untouched()), None)
        if link is not None:
            ran = [(step.name, step.module) for step in link.path()]
            if all(sums_survive(module) for _, module in ran):
                return
    for name, module in ran:
        if not sums_survive(module):
            raise ValueError(
                f"gradient_at: between '{layer}' and '{at}' only max pooling, adaptive pooling and "
                "average pooling whose weights sum to one may run (the sum over positions must "
                f"stay the same), but {describe(name, module)} did"
            )
    raise ValueError(
        f"gradient_at: the output of '{at}' is not that of '{layer}' after pooling alone: code "
        "outside of modules changed it in between"
    )


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module without children, once; a compiled module counts as one, with its first name."""
    seen: set[int] = set()
    stack = [("", model)]
    while stack:
        name, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        children = [(key, child) for key, child in module._modules.items() if child is not None]
        if not children or is_compiled(module):
            yield name, module
            continue
        prefix = f"{name}." if name else ""
        stack.extend((prefix + key, child) for key, child in reversed(children))


def _resolve(model: nn.Module, argument: str, name: str) -> nn.Module:
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected the name of a module, got {type(name).__name__}")
    module = model
    so_far = ""
    for part in name.split("."):
        if is_compiled(module):
            inside = f"'{so_far}', which is compiled" if so_far else "a model compiled as a whole"
            raise ValueError(
                f"{argument}: '{name}' lies in {inside}: its output cannot be seen; tap the "
                "compiled module itself, or compile the part of the model up to the layer only"
            )
        child = module._modules.get(part)
        if child is None:
            raise ValueError(f"{argument}: the model has no module '{name}'{_hint(model, name)}")
        module = child
        so_far = f"{so_far}.{part}" if so_far else part
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise ValueError(
            f"{argument}: '{name}' was compiled in place, which hides its output; "
            "use the wrapper that torch.compile(module) returns"
        )
    return module


def _hint(model: nn.Module, name: str) -> str:
    names = [known for known, _ in model.named_modules() if known]
    close = [known for known in names if name and known.endswith("." + name)]
    close += [known for known in difflib.get_close_matches(name, names, 3) if known not in close]
    if close:
        return "; did you mean " + " or ".join(f"'{known}'" for known in close[:3]) + "?"
    return f"; expected a name of model.named_modules(), such as {names[:3]}" if names else ""
