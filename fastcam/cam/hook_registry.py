"""Hooks of a tap on a model that others use at the same time: threads, copies, saved files.

They are put straight into a module's dictionaries: ``register_forward_hook`` costs ten times as
much, and numbers its handles, by which :func:`handles_made` tells hooks of the user's.
"""

from __future__ import annotations

import copyreg
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fastcam.ops.autograd import running_backward

__all__ = [
    "Hook",
    "Hooks",
    "handles_made",
    "is_opaque",
    "is_own",
    "of_this_forward",
    "own_handle",
    "taps_entered",
]

_LOCK = threading.Lock()
_entered = 0
_own_handles = 0
_reduce_before: Callable[[Any], Any] | None = None  # what copied OrderedDicts before the first tap


class Hook:
    """A forward (pre-)hook that copies of the module do not take along."""

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


# torch numbers hooks from 0 up.
_keys = itertools.count(-1, -1)


class Hooks:
    """The hooks of one entry of a tap."""

    def __init__(self) -> None:
        self._held: list[tuple[dict[int, Any], int]] = []

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, module: nn.Module, hook: Hook, *, pre: bool = False, first: bool = False) -> None:
        """Register a hook as ``register_forward_(pre_)hook(hook, prepend=first)`` does."""
        hooks: Any = module._forward_pre_hooks if pre else module._forward_hooks
        key = next(_keys)
        hooks[key] = hook
        if first and len(hooks) > 1:
            hooks.move_to_end(key, last=False)
        self._held.append((hooks, key))

    def remove(self) -> None:
        for hooks, key in self._held:
            hooks.pop(key, None)
        self._held.clear()


def taps_entered(change: int) -> None:
    """A tap was entered (1) or left (−1).

    A module is copied and pickled together with its hooks, so that a copy would hold on to a tap,
    and pickle would fail. Hooks are kept in ``OrderedDict``s; while any tap is entered, those are
    copied and pickled without the hooks of taps.
    """
    global _entered, _reduce_before
    with _LOCK:
        if _entered == 0:
            _reduce_before = copyreg.dispatch_table.get(OrderedDict)
            copyreg.pickle(OrderedDict, _without_hooks)  # type: ignore[arg-type]
        _entered += change
        if _entered == 0:
            if _reduce_before is not None:
                copyreg.dispatch_table[OrderedDict] = _reduce_before
            else:
                copyreg.dispatch_table.pop(OrderedDict, None)


def _without_hooks(mapping: OrderedDict[Any, Any]) -> Any:
    """How to copy or pickle an ``OrderedDict``: as ever, but for hooks of a tap."""
    items = list(mapping.items())
    kept = [item for item in items if type(item[1]) is not Hook]
    if len(kept) < len(items):
        mapping = OrderedDict(kept)
    return (_reduce_before or OrderedDict.__reduce__)(mapping)


def handles_made() -> int | None:
    """How many hooks torch has numbered: on tensors, nodes of a graph and modules, in any thread.

    As long as it stays the same, nobody has registered one, but for :func:`own_handle`. None if
    this torch does not tell.
    """
    with _LOCK:
        made = getattr(RemovableHandle, "next_id", None)
        return None if made is None else made - _own_handles


def own_handle(register: Callable[[Any], Any], hook: Callable[..., Any]) -> Any:
    """Register a hook that is not to count."""
    global _own_handles
    with _LOCK:
        handle = register(hook)
        _own_handles += 1
    return handle


def is_own(hook: Any) -> bool:
    """Whether a module's hook is one of a tap."""
    return type(hook) is Hook


def of_this_forward(module: nn.Module, own: int) -> bool:
    """Whether a hook's call belongs to a forward of the module with the ``id`` own.

    It does not if activation checkpointing recomputes in a backward, if a shallow copy of the
    module shares its hooks, or if torch.jit.trace records.
    """
    return running_backward() == -1 and id(module) == own and not torch._C._is_tracing()


def is_opaque(module: nn.Module) -> bool:
    """A TorchScript module: what lies within runs outside of Python."""
    return isinstance(module, torch.jit.ScriptModule)
