"""Hooks of a tap on a model that others use at the same time: threads, copies, saved files."""

from __future__ import annotations

import copyreg
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fastcam.ops.autograd import running_backward

__all__ = ["forget_hooks", "is_opaque", "is_own", "of_this_forward", "register"]

# torch numbers hooks with a counter that two threads could read at once, and the count below.
_LOCK = threading.Lock()
_registered = 0
_reduce_before: Callable[[Any], Any] | None = None  # what copied OrderedDicts before the first hook


class _Hook:
    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    @property
    def __name__(self) -> str:  # torch.jit.script asks for it, to translate the hook
        raise AttributeError(
            "model: a tapped model cannot be scripted; leave the tap's with block first"
        )


def register(
    module: nn.Module, hook: Callable[..., Any], *, pre: bool = False, first: bool = False
) -> Any:
    """Register a forward (pre-)hook that copies of the module do not take along.

    A module is copied and pickled together with its hooks, so that a copy would hold on to a tap,
    and pickle would fail. Hooks are kept in ``OrderedDict``s; while any is registered here, those
    are copied and pickled without it.
    """
    global _registered, _reduce_before
    hook = _Hook(hook)
    with _LOCK:
        # Of the class: a scripted module refuses it, though it calls hooks like any other.
        add = nn.Module.register_forward_pre_hook if pre else nn.Module.register_forward_hook
        handle = add(module, hook, prepend=first)
        if _registered == 0:
            _reduce_before = copyreg.dispatch_table.get(OrderedDict)
            copyreg.pickle(OrderedDict, _without_hooks)  # type: ignore[arg-type]
        _registered += 1
    return handle


def forget_hooks(handles: Iterable[Any]) -> None:
    """Take hooks of :func:`register` away."""
    global _registered
    with _LOCK:
        for handle in handles:
            handle.remove()
            _registered -= 1
            if _registered == 0:
                if _reduce_before is not None:
                    copyreg.dispatch_table[OrderedDict] = _reduce_before
                else:
                    copyreg.dispatch_table.pop(OrderedDict, None)


def _without_hooks(mapping: OrderedDict[Any, Any]) -> Any:
    """How to copy or pickle an ``OrderedDict``: as ever, but for hooks of a tap."""
    items = list(mapping.items())
    kept = [item for item in items if type(item[1]) is not _Hook]
    if len(kept) < len(items):
        mapping = OrderedDict(kept)
    return (_reduce_before or OrderedDict.__reduce__)(mapping)


def is_own(hook: Any) -> bool:
    """Whether a module's hook is one of :func:`register`."""
    return type(hook) is _Hook


def of_this_forward(module: nn.Module, own: int) -> bool:
    """Whether a hook's call belongs to a forward of the module with the ``id`` own.

    It does not if activation checkpointing recomputes in a backward, if a shallow copy of the
    module shares its hooks, or if torch.jit.trace records.
    """
    return running_backward() == -1 and id(module) == own and not torch._C._is_tracing()


def is_opaque(module: nn.Module) -> bool:
    """A TorchScript module: what lies within runs outside of Python."""
    return isinstance(module, torch.jit.ScriptModule)
