"""What a run's settings say of a loss and of batches that it was given as objects."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

#: Their names among the settings; earlier versions did not note them.
LOSS_OPTIONS, BATCHES = "loss_options", "batches"

# What a function reads from outside; a list or a dict is what one collects in.
_VALUES: tuple[type, ...] = (type(None), bool, int, float, str, tuple, np.generic, np.ndarray)
_VALUES += (Tensor, nn.Module, functools.partial)

# A loss of many parts (one that holds a network) is told by a digest of its options.
_MANY = 50


def loss_settings(loss: Any) -> dict[str, Any]:
    """A loss by its name and its options, as JSON values.

    Options are what it was made with: the arguments of its class and of its submodules', where they
    are kept by their names, those of a ``functools.partial``, the defaults of a function and the
    values around it that it reads. Numbers, texts and tensors count, other objects by their kind.
    What a loss counts or learns meanwhile does not: a run goes on with the same object.
    """
    found = dict(_options(loss))
    if len(found) > _MANY:
        found = {"sha256": hashlib.sha256(json.dumps(found).encode()).hexdigest()}
    return {"loss": _name(loss), **({LOSS_OPTIONS: found} if found else {})}


def batches_settings(data: Any) -> dict[str, Any]:
    """The names of batches' labels, and how many images and batches there are where that is known
    without taking one."""
    found: dict[str, Any] = {
        "attributes": [str(name) for name in getattr(data, "attributes", ())],
        "exclusive": bool(getattr(data, "exclusive", False)),
    }
    for split in ("train", "valid"):
        batches = getattr(data, split, None)
        counts = {"batches": batches, "images": getattr(batches, "dataset", None)}
        for what, counted in counts.items():
            try:
                found[f"{split}_{what}"] = len(counted)  # type: ignore[arg-type]
            except (TypeError, NotImplementedError):  # nobody knows
                continue
    return {BATCHES: found}


def _name(made: Any) -> str:
    return getattr(made, "__qualname__", type(made).__name__)


def _options(made: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(made, functools.partial):
        yield f"{prefix}func", _name(made.func)
        yield from _options(made.func, prefix)
        for key, value in [*enumerate(made.args), *made.keywords.items()]:
            yield from _option(f"{prefix}{key}", value)
    elif inspect.ismethod(made):
        yield from _options(made.__self__, prefix)
    elif inspect.isfunction(made):
        for key, value in _around(made).items():
            yield from _option(f"{prefix}{key}", value)
    else:
        held = dict(getattr(made, "__dict__", {}))
        if isinstance(made, nn.Module):
            held |= {**made._buffers, **made._parameters}
        for key in _arguments(type(made)):
            if (kept := next((k for k in (key, f"_{key}") if k in held), None)) is not None:
                yield from _option(f"{prefix}{key}", held[kept])
        if isinstance(made, nn.Module):
            for key, child in made.named_children():
                yield from _option(f"{prefix}{key}", child)


def _around(function: Any) -> dict[str, Any]:
    """Defaults of a function, and values that it reads from outside, not what it changes there."""
    found = inspect.getclosurevars(function)
    changed = {i.argval for i in dis.get_instructions(function) if i.opname.startswith("STORE_")}
    parameters = inspect.signature(function).parameters.values()
    return {
        **{p.name: p.default for p in parameters if p.default is not p.empty},
        **{
            key: value
            for key, value in {**found.globals, **found.nonlocals}.items()
            if key not in changed and isinstance(value, _VALUES)
        },
    }


def _arguments(kind: type) -> list[str]:
    try:
        return list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):  # of a class that is not Python's own
        return []


def _option(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)  # NaN would differ from itself
    if value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        yield name, f"{value.dtype} {list(value.shape)} {content}"
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _option(f"{name}.{number}", item)
    else:
        yield name, _name(value)
        if isinstance(value, nn.Module | functools.partial):
            yield from _options(value, f"{name}.")
