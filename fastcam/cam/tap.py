"""``ActivationTap``: the activations of one layer, and what the head does with them, in a forward.

The tap only watches: it changes no value, draws no random number, leaves the model's mode, its
gradients and the user's own hooks alone, and takes its hooks away when it is left. Behind a frozen
trunk, where there would be no gradient to take, the tapped output is made to require grad and the
rest of the network gets a copy of it, which may be overwritten in place as without a tap. So it
does in inference mode, where only copies count how often they are overwritten.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fastcam._util.tensors import versioned
from fastcam.cam.head_graph import only_pools, path, roles
from fastcam.cam.hook_registry import Hook, Hooks, is_opaque, of_this_forward, taps_entered
from fastcam.cam.layers import Step, describe, is_compiled, preserves_spatial_sum
from fastcam.cam.layout import MapReader, Reshape
from fastcam.cam.tap_names import name_of, resolve
from fastcam.cam.trace import Capture, KnownHead, Trace
from fastcam.ops.autograd import transformed

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
    Make it once and enter it in every step: a head that it has recognised it finds again in the
    graph, without hooks on the modules. If that fails, the head having changed in a way that no
    module shows, one forward is differentiated by autograd, and all modules are watched again.
    It sees forwards of the thread that entered it; other threads may run the same model, and tap
    it, at the same time. Copies of the model, and what is saved of it, carry no hooks of the tap.

    Args:
        model: the network, as it is: torchvision's AlexNet, VGG and ResNet need no change. Of a
            ``DistributedDataParallel`` give ``model.module``, or start the names with ``module.``.
        layer: the module whose output [N,C,H,W] is the target of Grad-CAM, or its name (as in
            ``model.named_modules()``). A module that is called several times in a forward counts
            with its last call.
        gradient_at: a module after ``layer``, or its name, at whose output the gradient of the
            scores is taken. Only pooling may lie in between (max pooling, and average pooling whose
            weights sum to one): the sums over positions, and so the map, are the same there, at
            fewer bytes. None takes the gradient at ``layer``.
        reshape: how an output that is not [N,C,H,W] becomes a map: ``"tokens"`` for the [N,1+HW,C]
            or [N,HW,C] of a vision transformer (a square grid, a class token before it or none),
            :class:`fastcam.cam.Tokens` for other grids and more tokens in front, ``"nhwc"`` for the
            [N,H,W,C] of a Swin transformer, or a function that selects and reorders elements, as
            pytorch-grad-cam's ``reshape_transform`` does (of [L,N,C] too, which is what a
            transformer with ``batch_first=False`` returns). None is for [N,C,H,W], and an error
            where the output is seen to be, or could be, another; ``"nchw"`` is for [N,C,H,W]
            without that look, and ``"auto"`` takes what is seen. With a reshape the gradient is
            taken by autograd.

    Raises:
        TypeError: model is no module, a layer neither a name nor a module, or ``reshape`` neither
            a name nor a function.
        ValueError: there is no such module, or it lies inside a ``torch.compile``'d or TorchScript
            module, which hides what its submodules return; or ``gradient_at`` beside a ``reshape``,
            whose output no pooling follows.

    Why the gradient may be taken after pooling: docs/method.md. Which layers of which networks:
    docs/networks.md.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | nn.Module,
        gradient_at: str | nn.Module | None = None,
        reshape: Reshape | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if any(isinstance(module, nn.DataParallel) for module in model.modules()):
            raise ValueError(
                "model: DataParallel runs copies of the model that cannot be tapped; "
                "use DistributedDataParallel"
            )
        if isinstance(model, torch.jit.ScriptModule):
            raise ValueError(
                "model: the layers of a TorchScript module run where they cannot be seen; tap the "
                "module that was scripted or traced, or one that has TorchScript parts"
            )
        self.model = model
        self.layer = name_of(model, "layer", layer)
        resolve(model, "layer", self.layer)
        self.gradient_at: str | None = None
        if gradient_at is not None:
            at = name_of(model, "gradient_at", gradient_at)
            resolve(model, "gradient_at", at)
            self.gradient_at = None if at == self.layer else at
        self.reshape = reshape
        self._forget()
        self._check_gradient_at()
        self._clear()

    def _check_gradient_at(self) -> None:
        if self.reshaped and self.gradient_at is not None:
            raise ValueError(
                f"gradient_at: expected none beside reshape={self.reshape!r}: pooling follows only "
                f"layers that return [N,C,H,W], got {self.gradient_at!r}"
            )

    def _forget(self) -> None:
        self._leaves: _Leaves | None = None
        self._known: list[KnownHead] = []
        self._varies = False
        self._layout = MapReader(self.reshape)

    def _clear(self) -> None:
        self._hooks = Hooks()
        self._trace: Trace | None = None
        self._thread = 0
        self._unseen: str | None = None  # why a forward did not count
        self._instead: str | None = None  # what could be tapped in place of what it overwrote
        self._leaves_hooked = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not entered, and holds nothing of a forward."""
        kept = ("model", "layer", "gradient_at", "reshape")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        self._clear()

    def __repr__(self) -> str:
        after = f", gradient_at={self.gradient_at!r}" if self.gradient_at else ""
        after += f", reshape={self.reshape!r}" if self.reshape is not None else ""
        return f"{type(self).__name__}({type(self.model).__name__}, {self.layer!r}{after})"

    def __enter__(self) -> ActivationTap:
        if self._hooks:
            raise RuntimeError(f"{self!r} is entered already")
        target = resolve(self.model, "layer", self.layer)
        point = None
        if self.gradient_at is not None:
            point = resolve(self.model, "gradient_at", self.gradient_at)
        self._thread, self._unseen = threading.get_ident(), None
        taps_entered(1)
        self._hooks.add(self.model, _hook(self, self.model, _on_forward), pre=True, first=True)
        self._hooks.add(target, _hook(self, target, _on_layer))
        if point is not None:
            self._hooks.add(point, _hook(self, point, _on_gradient))
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
        """The map [N,C,H,W] of the last forward: the layer's output, or what ``reshape`` makes of
        it, in its graph.

        Raises:
            ValueError: no forward reached the layer while the tap was entered, what came later
                overwrote the output in place, or it is no map, or may be one in another order.
            TypeError: the layer's output is no floating-point tensor.
        """
        trace = self.trace
        output = _usable(self, trace.layer, "layer")
        if trace.map is None:
            module = self.model.get_submodule(self.layer)
            trace.map = self._layout.map_of(output, trace, module)
        return trace.map

    @property
    def reshaped(self) -> bool:
        """Whether the map is not the layer's output itself."""
        return self._layout.read is not None

    @property
    def output(self) -> Tensor:
        """The layer's output in the last forward as it came: what the logits were computed from.

        Raises:
            ValueError, TypeError: as :attr:`activations`.
        """
        return _usable(self, self.trace.layer, "layer")

    def gradients(self, gradients: Tensor) -> Tensor:
        """D [N,T,C,H,W] of ∂score/∂output [N,T,*]: reshaped as the map is."""
        return self._layout.gradients(gradients, self.activations)

    def by_image(self, gradient: Tensor) -> Tensor:
        """A gradient at the output [N,*], of which a reshape may find N in another place."""
        if not self.reshaped:
            return gradient
        _ = self.activations  # which finds it
        return self._layout.by_image(gradient)

    @property
    def gradient_point(self) -> Tensor:
        """The tensor with respect to which the scores are differentiated: at ``gradient_at``.

        Raises:
            ValueError, TypeError: as :attr:`activations`; or ``gradient_at`` did not run after the
                layer, or something other than pooling ran in between.
        """
        trace = self.trace
        if self.gradient_at is None:
            return _usable(self, trace.layer, "layer")
        self._check_gradient_at()
        if trace.gradient is None:
            raise ValueError(
                f"gradient_at: '{self.gradient_at}' did not run after '{self.layer}' "
                "in the last forward"
            )
        point = _usable(self, trace.gradient, "gradient_at")
        _only_pooling(trace, point)
        return point

    @property
    def trace(self) -> Trace:
        """What ran from the layer on in the last forward."""
        if self._trace is not None:
            return self._trace
        if not self._hooks:
            raise ValueError(
                f"activations: {self!r} is not entered (what it held was dropped on exit); "
                "compute the loss inside the with block"
            )
        raise ValueError(
            f"activations: '{self.layer}' did not run in the last forward of the tapped model, "
            + (
                f"which ran {self._unseen}"
                if self._unseen
                else "or ran where its output cannot be seen (inside a torch.compile'd region: "
                "compile the part before the layer, and leave the rest eager)" + self._last_part()
            )
        )

    def _last_part(self) -> str:
        """What to tap of a container that the model may have run part by part."""
        layer = self.model.get_submodule(self.layer)
        if not isinstance(layer, (nn.Sequential, nn.ModuleList)) or not len(layer):
            return ""
        last = f"{self.layer}.{list(layer._modules)[-1]}"
        return (
            "; or the model calls its parts one by one (as timm's gradient checkpointing does): "
            f"tap the last of them, '{last}'"
        )

    def learn(self, logits: Tensor, steps: list[Step], compared: Any) -> None:
        """Remember a head that was recognised, and compared in a dtype on a device."""
        nodes = path(self.activations, logits)
        if nodes is None or self._varies or not self.trace.watched:
            return
        modules = []
        for call in self.trace.calls:
            parent, _, key = call.name.rpartition(".")
            siblings: Any = self.model.get_submodule(parent)._modules
            modules.append((siblings, key, call.module, call.module.training))
        new = KnownHead(modules, roles(nodes, steps))
        same = [known for known in self._known if known.roles == new.roles]
        if not same:
            self._known.append(new)
        known = same[0] if same else new
        known.modules = modules
        known.compared.add(compared)

    def varies(self) -> None:
        """The head did not run as the ones that are known: watch the modules from now on."""
        self._varies = True
        self._known = []

    def _watch_leaves(self) -> None:
        """From the layer on: what ran before it needs no hooks."""
        self._leaves_hooked = True
        if self._leaves is None or not self._leaves.current():
            self._leaves = _Leaves(self.model)
        add = self._hooks.add
        for module, before, after in self._leaves.hooks(self):
            add(module, before, pre=True)  # last, to see the input as it is
            # first: a user's hook that changes the output then breaks the trace
            add(module, after, first=True)

    def _counts(self, module: nn.Module, own: int) -> bool:
        """Whether a call belongs to a forward that the tap is to see; where not, why."""
        if threading.get_ident() != self._thread:
            # Also a recomputation in a thread of autograd's, which is no forward.
            if module is self.model:
                self._unseen = "in another thread than the one that entered the tap"
            return False
        if not of_this_forward(module, own):
            return False
        if transformed():
            self._trace = None
            self._unseen = (
                "inside a torch.func transform, which has no graph to take Grad-CAM from; give the "
                "functions of fastcam.functional the activations and torch.func's gradients"
            )
            return False
        return True

    def _release(self) -> None:
        if self._hooks:
            self._hooks.remove()
            taps_entered(-1)
        self._clear()


def _hook(tap: ActivationTap, watched: nn.Module, action: Callable[..., Any]) -> Hook:
    """A hook that calls action(tap, module, what the module took, or returned)."""
    reference, own = weakref.ref(tap), id(watched)

    def hook(module: nn.Module, *values: Any) -> Any:
        if torch.compiler.is_compiling():
            return None  # a compiled region shows no tensors; its wrapper is treated as one module
        tap = reference()
        if tap is None or not tap._counts(module, own):
            return None
        return action(tap, module, values[-1])

    return Hook(hook)


def _on_forward(tap: ActivationTap, module: nn.Module, args: Any) -> None:
    tap._trace = tap._unseen = None


def _on_call(name: str) -> Callable[..., None]:
    def action(tap: ActivationTap, module: nn.Module, args: Any) -> None:
        trace = tap._trace
        if trace is not None:
            trace.before(name, module, args)

    return action


def _on_return(name: str) -> Callable[..., Tensor | None]:
    def action(tap: ActivationTap, module: nn.Module, output: Any) -> Tensor | None:
        trace = tap._trace
        if trace is None:
            return None
        known = trace.layer.overwriter
        handed_on = trace.after(name, module, output)
        if trace.layer.overwriter is not known and isinstance(output, Tensor) and output.dim() == 4:
            tap._instead = name
        return handed_on

    return action


def _on_layer(tap: ActivationTap, module: nn.Module, output: Any) -> Tensor | None:
    handed_on = None
    if isinstance(output, Tensor) and not output.requires_grad:
        if output.is_inference():
            output = handed_on = versioned(output)
        elif torch.is_grad_enabled() and output.is_floating_point():
            # Nothing before the layer is trained, but the map depends on the head too, through D.
            # An alias carries the graph from here on, so that no tensor of the user's starts to
            # need one. The head gets a copy: what overwrites a leaf, or a view of one, in place is
            # an error of autograd's in the forward, and without the tap there would be none.
            output = output.detach().requires_grad_()
            handed_on = output.clone()
    tap._trace, tap._instead = Trace(Capture.of(tap.layer, output), known=tap._known), None
    if not tap._leaves_hooked:
        if tap._known and tap._trace.chain is None:
            tap._trace.watched = not any(known.modules_unchanged() for known in tap._known)
        if tap._trace.watched:
            tap._watch_leaves()
    return handed_on


def _on_gradient(tap: ActivationTap, module: nn.Module, output: Any) -> None:
    if tap._trace is not None:
        tap._trace.gradient = Capture.of(tap.gradient_at or "", output)
        tap._trace.ran_before_gradient = len(tap._trace.calls)


def _overwritten(tap: ActivationTap, capture: Capture, argument: str) -> ValueError:
    name, words = capture.overwriter or (None, "code outside of modules")
    if name is None:
        advice = "write that operation so that it makes a new tensor: F.relu(x), x = x + y"
    elif hasattr(tap.model.get_submodule(name), "inplace"):
        advice = f"give '{name}' inplace=False"
    else:
        advice = f"let '{name}' make a new tensor"
    if argument == "gradient_at":
        advice = f"leave gradient_at out, or {advice}"
    elif tap._instead is not None and tap._instead != tap.layer:
        advice = f"tap '{tap._instead}' instead, or {advice}"
    return ValueError(
        f"{argument}: the output of '{capture.name}' was overwritten in place by {words}; {advice}"
    )


def _usable(tap: ActivationTap, capture: Capture, argument: str) -> Tensor:
    output = capture.output
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"{type(output).__name__}; tap a module within or behind it that returns the tensor"
        if isinstance(output, Tensor):
            got = f"{output.dtype}"
        raise TypeError(
            f"{argument}: expected '{capture.name}' to return one floating-point tensor, got {got}"
        )
    if capture.overwritten():
        raise _overwritten(tap, capture, argument)
    return output


def _only_pooling(trace: Trace, point: Tensor) -> None:
    """Check that only pooling lies between the layer and gradient_at, and no path bypasses it."""
    assert trace.gradient is not None
    layer, at = trace.layer.name, trace.gradient.name
    ran = [(call.name, call.module) for call in trace.calls[: trace.ran_before_gradient]]
    if trace.chain is None:
        if only_pools(trace, point):
            return
    else:
        link = next((c for c in trace.chain.links if c.output is point and c.untouched()), None)
        if link is not None:
            ran = [(step.name, step.module) for step in link.path()]
            if all(preserves_spatial_sum(module) for _, module in ran):
                return
    for name, module in ran:
        if not preserves_spatial_sum(module):
            raise ValueError(
                f"gradient_at: between '{layer}' and '{at}' only max pooling, adaptive pooling and "
                "average pooling whose weights sum to one may run (the sum over positions must "
                f"stay the same), but {describe(name, module)} did"
            )
    raise ValueError(
        f"gradient_at: the output of '{at}' is not that of '{layer}' after pooling alone: code "
        "outside of modules changed it in between"
    )


class _Leaves:
    """Every module without children, once, with its first name; a compiled one counts as one.

    Found once, and looked up again when some module has got or lost a child.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found: list[tuple[str, nn.Module]] = []
        self._containers: list[tuple[nn.Module, list[int]]] = []
        self._childless: list[nn.Module] = []
        self._closed: list[nn.Module] = []
        self._hooks: list[tuple[nn.Module, Hook, Hook]] = []
        seen: set[int] = set()
        stack = [("", model)]
        while stack:
            name, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            children = [(key, child) for key, child in module._modules.items() if child is not None]
            closed = is_compiled(module) or is_opaque(module)
            if closed or not children:
                self._found.append((name, module))
                (self._closed if closed else self._childless).append(module)
                continue
            self._containers.append((module, list(map(id, module._modules.values()))))
            prefix = f"{name}." if name else ""
            stack.extend((prefix + key, child) for key, child in reversed(children))

    def current(self) -> bool:
        return (
            all(
                list(map(id, module._modules.values())) == children and not is_compiled(module)
                for module, children in self._containers
            )
            and not any(module._modules for module in self._childless)
            and all(is_compiled(module) or is_opaque(module) for module in self._closed)
        )

    def hooks(self, tap: ActivationTap) -> list[tuple[nn.Module, Hook, Hook]]:
        """Of each leaf, what is called before and after it."""
        if not self._hooks:
            self._hooks = [
                (module, _hook(tap, module, _on_call(name)), _hook(tap, module, _on_return(name)))
                for name, module in self._found
            ]
        return self._hooks
