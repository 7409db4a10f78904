"""What a run's settings say of a loss and of batches that it was given as objects."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

#: Their names among the settings; earlier versions did not note them.
LOSS_OPTIONS, BATCHES = "loss_options", "batches"


def loss_settings(loss: Any) -> dict[str, Any]:
    """A loss by its name and its options, as JSON values.

    Options are what it was made with: the arguments of its class and of its submodules', where they
    are kept by their names, and those of a ``functools.partial``. Numbers, texts and tensors count,
    other objects by their kind; a plain function counts by its name. What a loss counts or learns
    meanwhile does not: a run goes on with the same object.
    """
    found = dict(_options(loss))
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
    elif not inspect.isfunction(made):
        held = dict(getattr(made, "__dict__", {}))
        if isinstance(made, nn.Module):
            held |= {**made._buffers, **made._parameters}
        for key in _arguments(type(made)):
            if (kept := next((k for k in (key, f"_{key}") if k in held), None)) is not None:
                yield from _option(f"{prefix}{key}", held[kept])
        if isinstance(made, nn.Module):
            for key, child in made.named_children():
                yield from _option(f"{prefix}{key}", child)


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
