"""Calls of public functions with anything: the right result, or an error that names the argument.

    python -m bench fuzz --calls 100000

Hypothesis draws shapes (none of an image, too), strides, dtypes and values, NaN, infinities and
denormal numbers among them, and now and then something of another kind. What comes back is compared
with plain PyTorch (``fastcam.reference``), in float64 where rounding would part them. Whatever is
raised must be a ValueError or TypeError with the name of one of the function's arguments.
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import fastcam
from bench.report import machine, markdown, write
from fastcam import functional as F
from fastcam import reference, regions

ROOT = Path(__file__).resolve().parent.parent
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SPECIAL = (math.nan, math.inf, -math.inf, 5e-324, 1e-310, 1e38, -0.0, 3e4)


@dataclass
class Call:
    """A call, and what is known of it.

    function: what is called, with ``args`` and ``options``. twin: what gives the same in plain
    PyTorch; None where there is none. exact: whether the numbers are such that both must agree.
    """

    function: Callable[..., Any]
    args: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    twin: Callable[..., Any] | None = None
    exact: bool = False


SIZES = st.integers(0, 5) | st.integers(1, 4)


@st.composite
def tensors(draw: Any, shape: tuple[int, ...], dtype: torch.dtype, plain: bool) -> Tensor:
    """Values in [0, 1] and, unless ``plain``, around 0 and special ones; in one of many strides."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    values = torch.rand(shape, generator=rng, dtype=torch.float64)
    if not plain:
        values = draw(st.sampled_from([1.0, -2.0, 1e-3, 1e4])) * (values - draw(st.floats(0, 1)))
        if values.numel() and draw(st.booleans()):
            for _ in range(draw(st.integers(1, 3))):
                place = draw(st.integers(0, values.numel() - 1))
                values.view(-1)[place] = draw(st.sampled_from(SPECIAL))
    values = values.to(dtype)
    layout = draw(st.integers(0, 5)) if values.dim() > 1 else 0
    if layout == 1:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == 2:
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == 3:  # every second row of a larger one
        return torch.stack([values, values], 1).flatten(0, 1)[::2]
    if layout == 4:  # one row for all
        return values[:1].expand_as(values) if len(values) else values
    return values


@st.composite
def junk(draw: Any) -> Any:
    """Something of another kind."""
    shape = draw(st.lists(st.integers(0, 3), max_size=6))
    return draw(
        st.sampled_from(
            [
                None, "text", 3, -1.5, math.nan, [], [1.0, 2.0], {}, object(), np.zeros((2, 2)),
                torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), torch.ones(2, 2) * 1j,
                torch.zeros(shape, device="meta"), torch.eye(3).to_sparse(), True, b"bytes",
            ]
        )
    )  # fmt: skip


@st.composite
def spoiled(draw: Any, call: Call) -> Call:
    """The call, now and then with an argument of another kind."""
    if draw(st.integers(0, 5)) == 0:
        wrong = draw(junk())
        if not call.args and not call.options:
            return call
        place = draw(st.integers(0, len(call.args) + len(call.options) - 1))
        if place < len(call.args):
            call.args[place] = wrong
        else:
            call.options[sorted(call.options)[place - len(call.args)]] = wrong
        call.exact = False
    return call


def _some(draw: Any, **choices: Any) -> dict[str, Any]:
    """Some of these options, with a value each."""
    return {k: draw(v) for k, v in choices.items() if draw(st.booleans())}


@st.composite
def map_calls(draw: Any) -> Call:
    """Of Grad-CAM and its losses."""
    n, t, c, h, w = (draw(SIZES) for _ in range(5))
    dtype, plain = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    single = draw(st.integers(0, 4)) == 0
    t = 1 if single else t
    cells = draw(st.sampled_from([(h, w), (1, 1), (2, 3)]))
    activations = draw(tensors((n, c, h, w), dtype, plain))
    gradients = draw(tensors((n, c, *cells) if single else (n, t, c, *cells), dtype, plain))
    if draw(st.booleans()):
        activations.requires_grad_()
    exact = plain and dtype == torch.float64
    which = draw(st.sampled_from(["grad_cam", "cam_iou_loss", "cam_loss", "valid_targets"]))
    mask = draw(tensors((n, h, w) if single else (n, t, h, w), torch.float32, True))
    shared: dict[str, Any] = _some(
        draw,
        cell_weights=st.one_of(
            tensors((h, w), torch.float32, True), tensors((n, 1, h, w), torch.float32, True)
        ),
        where=st.sampled_from([torch.ones(n, dtype=torch.bool), torch.zeros(n, t).bool()]),
    )
    if which == "grad_cam":
        options: dict[str, Any] = _some(draw, normalize=st.booleans())
        return Call(F.grad_cam, [activations, gradients], options, reference.grad_cam, exact)
    if which == "valid_targets":
        return Call(F.valid_targets, [mask], shared, reference.valid_targets, plain)
    shared |= _some(
        draw,
        reduction=st.sampled_from(["mean", "sum", "none"]),
        max_pair_pull=st.sampled_from([None, 0.5, 1.0, 0.0, -1.0, math.nan]),
        eps=st.sampled_from([1e-6, 1e-3, 1.0, 0.0, math.inf]),
    )
    args = [activations, gradients, mask]
    if which == "cam_iou_loss":
        options = _some(
            draw,
            threshold=st.sampled_from([0.1, 0.5, 0.9, 0.0, 1.0, math.nan]),
            sharpness=st.sampled_from([1.0, 8.0, 30.0, 0.5, math.inf]),
            binarize=st.sampled_from(["tone", "sigmoid", "hard", "soft"]),
        )
        exact = exact and options.get("binarize") != "hard"  # a cell on the threshold may move
        return Call(F.cam_iou_loss, args, shared | options, reference.cam_iou_loss, exact)
    options = _some(
        draw,
        loss=st.sampled_from(["iou", "energy", "center", "l1", "ppce", "outside", "none"]),
        away=st.booleans(),
    )
    return Call(F.cam_loss, args, shared | options, reference.cam_loss, exact)


@st.composite
def attention_calls(draw: Any) -> Call:
    """Of the attention network's ops, and the margins."""
    n, k, c, h, w = (draw(SIZES) for _ in range(5))
    dtype, plain = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    settings = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, -1.0, math.nan, [0.5, 2.0], [1.0], []])
    curve = _some(draw, n=settings, beta=settings)
    exact = plain and dtype == torch.float64
    which = draw(st.sampled_from(["tone_curve", "attend", "attend_conv1x1", "margins"]))
    if which == "margins":
        logits = draw(tensors((n, k), dtype, plain))
        return Call(F.margins, [logits], {}, reference.margins, exact)
    if which == "tone_curve":
        mask = draw(tensors(tuple(draw(st.lists(SIZES, max_size=4))), dtype, plain))
        return Call(F.tone_curve, [mask], curve, reference.tone_curve, exact)
    features = draw(tensors((n, c, h, w), dtype, plain))
    if which == "attend":
        logits = draw(tensors((n, k, c, h, w), dtype, plain))
        options = curve | _some(draw, pool=st.booleans())
        return Call(F.attend, [features, logits], options, reference.attend, exact)
    twin = reference.attend_conv1x1 if k and c else None  # torch has no convolution to no channel
    weight = draw(tensors((k * c, c), dtype, plain))
    bias = draw(tensors((k * c,), dtype, plain))
    args = [features, weight, bias]
    return Call(F.attend_conv1x1, args, curve, twin, exact and twin is not None)


@st.composite
def region_calls(draw: Any) -> Call:
    """Of the regions: numpy, without a twin in torch."""
    n, r = draw(SIZES), draw(SIZES)
    kind = draw(st.sampled_from([np.float32, np.float64, np.int32]))

    def points(*shape: int) -> Any:
        plain = draw(st.booleans())
        values = 50 * draw(tensors(shape, torch.float64, plain)).numpy()
        if np.issubdtype(kind, np.integer):
            values = np.nan_to_num(values, posinf=0, neginf=0).clip(-1000, 1000)
        with np.errstate(over="ignore"):
            return values.astype(kind)

    size = st.sampled_from([(5, 7), (1, 1), (0, 3), (2.5, 2), (-1, 4), (math.nan, 1), (3,), "ab"])
    which = draw(st.sampled_from(
        ["rectangles", "grids", "five", "from_five", "flip", "template", "masks", "region", "parse"]
    ))  # fmt: skip
    if which == "grids":
        options = _some(draw, mode=st.sampled_from(["coverage", "binary", "none"]))
        return Call(regions.grids, [points(n, r, 4), draw(size), draw(size)], options)
    if which == "masks":
        shape = (n, r, draw(SIZES), draw(SIZES))
        mask = draw(tensors(shape, draw(st.sampled_from(DTYPES)), draw(st.booleans())))
        whole = draw(st.sampled_from([mask, mask > 0.5, mask[:, 0] if r else mask]))
        return Call(regions.from_masks, [whole, draw(size | SIZES)])
    if which == "parse":
        text = st.text("mouth,_nose0123.-e ", max_size=20) | st.sampled_from(
            ["mouth", "left_eye,nose", "0.1,0.2,0.5,0.9", "0,0,inf,1", "1e400,0,1,1", "nan,0,1,1"]
        )
        return Call(regions.Region.parse, [draw(text)])
    if which == "region":
        region = regions.Region(("mouth",), ((0.1, 0.2, 0.5, 0.6),))
        return Call(region.grid, [points(n, 68, 2), draw(size), draw(size)])
    number = st.sampled_from([1, 178.0, 0, -1.0, math.nan, math.inf])
    return {
        "rectangles": lambda: Call(regions.rectangles, [points(n, 68, 2)]),
        "five": lambda: Call(regions.five_points, [points(n, 68, 2)]),
        "from_five": lambda: Call(
            regions.landmarks_from_five_points, [points(n, 5, 2)],
            _some(draw, width=number, height=number),
        ),
        "flip": lambda: Call(regions.flip_landmarks, [points(n, 68, 2), draw(number)]),
        "template": lambda: Call(regions.template_landmarks, [draw(number), draw(number)]),
    }[which]()  # fmt: skip


@st.composite
def module_calls(draw: Any) -> Call:
    """Of the losses as modules, on a graph; their numbers are the functions'."""
    n, k, c, h, w = (draw(SIZES) for _ in range(5))
    dtype, plain = draw(st.sampled_from(DTYPES[:2])), draw(st.booleans())
    activations = draw(tensors((n, c, h, w), dtype, plain)).detach().requires_grad_()
    weight = draw(tensors((k, c), dtype, plain))
    logits = activations.mean((-2, -1)) @ weight.T
    name = draw(st.sampled_from(sorted(fastcam.losses.CAM_LOSSES)))  # type: ignore[attr-defined]
    made: Any = fastcam.losses.CAM_LOSSES[name]  # type: ignore[attr-defined]
    module = made(reduction=draw(st.sampled_from(["mean", "none", "sum"])))
    if draw(st.integers(0, 3)) == 0:
        maps = _some(draw, targets=st.sampled_from([None, 0, [0], k, -1, "a"]))
        return Call(fastcam.grad_cam_maps, [logits, activations], maps)
    targets = draw(st.sampled_from([None, 0, [0], k, -1, torch.zeros(n, dtype=torch.long)]))
    shape = draw(st.sampled_from([(n, h, w), (n, k, h, w), (n, 1, h, w)]))
    mask = draw(tensors(shape, torch.float32, True))
    options = _some(
        draw,
        where=st.sampled_from([torch.ones(n, dtype=torch.bool), torch.zeros(n, k).bool()]),
        normalizer=st.sampled_from([1.0, 0.0, -1.0, 3, math.nan]),
        signs=st.sampled_from([torch.ones(n), -torch.ones(n, 1), torch.zeros(n)]),
    )
    return Call(module, [logits, activations, mask, targets], options)


@st.composite
def balance_calls(draw: Any) -> Call:
    """Of what weighs losses, and of the attention network's loss."""
    numbers = st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf, [1.0, 0.5], [], "a"])
    if draw(st.booleans()):
        options = _some(draw, every=st.sampled_from([None, 1, 8, 0, 1.5]),
                        sync=st.sampled_from(["global", "local", "none"]))  # fmt: skip
        return Call(fastcam.Balance, [draw(numbers)], options)
    names = ("threshold", "sharpness", "max_pair_pull")
    options = _some(draw, **dict.fromkeys(names, numbers))
    return Call(fastcam.IoUCamLoss, [], options | _some(draw, head=st.sampled_from(["auto", "x"])))


CALLS = {
    "functional, maps": map_calls(),
    "functional, attention": attention_calls(),
    "regions": region_calls(),
    "losses": module_calls(),
    "options": balance_calls(),
}


def check(call: Call) -> str:
    """Do a call.

    Returns:
        "an error", "compared" or "a result".

    Raises:
        AssertionError: what came is neither right nor a fitting error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call.function(*call.args, **call.options)
    except (ValueError, TypeError) as error:
        if not _names_an_argument(call.function, str(error)):
            raise AssertionError(f"{error!r} names no argument") from error
        return "an error"
    if call.twin is None:
        return "a result"
    options = {k: v for k, v in call.options.items() if k != "max_pair_pull"}
    wanted = call.twin(*call.args, **options)
    for one, other in zip(_tensors(found), _tensors(wanted), strict=True):
        assert one.shape == other.shape, f"{one.shape} in place of {other.shape}"
        assert one.dtype == other.dtype, f"{one.dtype} in place of {other.dtype}"
        if call.exact:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, equal_nan=True)
    return "compared" if call.exact else "a result"


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _names_an_argument(function: Callable[..., Any], message: str) -> bool:
    target = function.forward if isinstance(function, torch.nn.Module) else function
    names = {*inspect.signature(target).parameters, "region", "boxes"}
    return any(name in message for name in names)


def fuzz(
    calls: int, number: int = 0, kinds: Sequence[str] = tuple(CALLS)
) -> dict[str, Counter[str]]:
    """So many calls, divided among the kinds; what came of them, by kind.

    Raises:
        AssertionError: see :func:`check`; with the smallest such call.
    """
    return {kind: _fuzz(CALLS[kind], calls // len(kinds), number) for kind in kinds}


def _fuzz(drawn: Any, calls: int, number: int) -> Counter[str]:
    came: Counter[str] = Counter()

    @seed(number)
    @settings(
        max_examples=calls, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(drawn.flatmap(spoiled))
    def one(call: Call) -> None:
        came[check(call)] += 1

    one()
    return came


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
    found = fuzz(options.calls, options.seed)
    seconds = time.monotonic() - began
    columns = ("a result", "compared", "an error")
    rows = [[k, str(c.total()), *(str(c[name]) for name in columns)] for k, c in found.items()]
    total = sum(c.total() for c in found.values())
    text = markdown(
        ["calls of", "calls", "a result", "compared with the reference", "an error"], rows
    )
    about = {**machine(), "calls": total, "seed": options.seed, "seconds": round(seconds)}
    results = [{"kind": kind, **came} for kind, came in found.items()]
    write(options.out, "fuzz", about, results, text)
    print(f"{total} calls in {seconds:.0f} s, no crash, none wrong", text, sep="\n\n")
    return 0
