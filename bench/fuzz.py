"""Calls of public functions with anything: the right result, or an error that names the argument.

    python -m bench fuzz --calls 100000

Hypothesis draws shapes (none of an image, too), strides, dtypes and values, NaN, infinities and
denormal numbers among them, and now and then something of another kind. What comes back is compared
with plain PyTorch (``fastcam.reference``), in float64 where rounding would part them, gradients
too. Whatever is raised must be a ValueError or TypeError with the name of one of the function's
arguments.
"""

from __future__ import annotations

import argparse
import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.fuzz_calls import attention_calls, map_calls, region_calls
from bench.fuzz_draws import Call, Within, spoiled
from bench.fuzz_losses import module_calls, option_calls, tap_calls
from bench.report import ROOT, UNFINISHED, machine, markdown, write

CALLS = {
    "functional, maps": map_calls(),
    "functional, attention": attention_calls(),
    "regions": region_calls(),
    "losses": module_calls(),
    "networks": tap_calls(),
    "options": option_calls(),
}


def check(call: Call) -> str:
    """Do a call.

    Returns:
        "an error", "compared" or "a result".

    Raises:
        AssertionError: what came is neither right nor a fitting error.
    """
    with warnings.catch_warnings(), call.around() as given:
        warnings.simplefilter("ignore")
        args = [given[a.name] if isinstance(a, Within) else a for a in call.args]
        try:
            found = call.function(*args, **call.options)
        except (ValueError, TypeError) as error:
            if not _names_an_argument(call, str(error)):
                raise AssertionError(f"{error!r} names no argument") from error
            return "an error"
        if call.twin is None:
            return "a result"
        both = [_tensors(f) for f in (found, call.twin(*args, **call.options))]
        for one, other in zip(*both, strict=True):
            assert one.shape == other.shape, f"{one.shape} in place of {other.shape}"
            assert one.dtype == other.dtype, f"{one.dtype} in place of {other.dtype}"
        if not call.exact:
            return "a result"
        both = [values + _gradients(values, call.leaves) for values in both]
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one, other, rtol=call.close, atol=1e-9, equal_nan=True)
    return "compared"


def _tensors(value: Any) -> list[Tensor]:
    values = [value] if isinstance(value, (Tensor, np.ndarray)) else value
    return [torch.as_tensor(v) for v in values if v is not None]


def _gradients(values: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Of a weighted sum of all values."""
    rng = torch.Generator().manual_seed(0)
    parts = [(v * torch.rand(v.shape, generator=rng, dtype=torch.float64)).sum() for v in values]
    total = torch.stack(parts).sum()
    if not leaves or not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(
        total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    ))  # fmt: skip


def _names_an_argument(call: Call, message: str) -> bool:
    function: Any = call.function
    target = function.forward if isinstance(function, torch.nn.Module) else function
    names = {*inspect.signature(target).parameters, *call.names, "region", "boxes"}
    return any(name in message for name in names)


Came = dict[str, Counter[str]]
EVERY = 20.0  # seconds between two savings


def fuzz(
    calls: int,
    number: int = 0,
    kinds: Sequence[str] = tuple(CALLS),
    save: Callable[[Came], object] | None = None,
) -> Came:
    """So many calls, divided among the kinds; what came of them, by kind.

    Args:
        calls, number, kinds: how many, the seed, and of what.
        save: called with what came until then, after each kind and every ``EVERY`` seconds.

    Raises:
        AssertionError: see :func:`check`; with the smallest such call.
    """
    found: Came = {}
    saved = time.monotonic()

    def now_and_then() -> None:
        nonlocal saved
        if save is not None and time.monotonic() > saved + EVERY:
            save(found)
            saved = time.monotonic()

    for kind in kinds:
        found[kind] = Counter()
        _fuzz(CALLS[kind], calls // len(kinds), number, found[kind], now_and_then)
        if save is not None:
            save(found)
    return found


def _fuzz(
    drawn: Any, calls: int, number: int, came: Counter[str], after: Callable[[], None]
) -> None:
    @seed(number)
    @settings(
        max_examples=calls, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(drawn.flatmap(spoiled))
    def one(call: Call) -> None:
        came[check(call)] += 1
        after()

    one()


def fuzzed_bytes() -> Callable[[bytes], object]:
    """What a fuzzer of bytes calls: draws a call of any kind from them, and does it."""

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(*CALLS.values()).flatmap(spoiled))
    def one(call: Call) -> None:
        check(call)

    return one.hypothesis.fuzz_one_input  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench fuzz", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--calls", type=int, default=100_000, help="in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.monotonic()

    def save(found: Came, state: Mapping[str, Any] = UNFINISHED) -> str:
        total = sum(came.total() for came in found.values())
        seconds = round(time.monotonic() - began)
        about = {**machine(), "calls": total, "seed": options.seed, "seconds": seconds, **state}
        text = table(found)
        write(options.out, "fuzz", about, [{"kind": k, **came} for k, came in found.items()], text)
        return f"{total} calls in {seconds} s, no crash, none wrong\n\n{text}"

    print(save(fuzz(options.calls, options.seed, save=save), {}))
    return 0


def table(found: Came) -> str:
    columns = ("a result", "compared", "an error")
    rows = [[k, str(c.total()), *(str(c[name]) for name in columns)] for k, c in found.items()]
    header = ["calls of", "calls", "a result", "compared with the reference", "an error"]
    return markdown(header, rows)
