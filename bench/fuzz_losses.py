"""Calls of the losses, the tap and the maps, for ``bench.fuzz``: on a graph, and on networks."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as nnf

import fastcam
from bench import fuzz_twins as twins
from bench.fuzz_draws import DTYPES, SIZES, Call, Within, some, tensors
from fastcam.losses import attention, cam

REDUCTIONS = st.sampled_from(["mean", "none", "sum"])
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf, [1.0, 0.5], [], "a"])


def _targets(n: int, k: int, shape: tuple[int, ...] = ()) -> st.SearchStrategy[Any]:
    """Scores that there are, and others; in every second case such as fit regions of a shape."""
    each = torch.zeros(n, dtype=torch.long)
    pairs = [[k - 1, 0]] * n
    fitting: dict[int, list[Any]] = {3: [0, each, pairs], 4: [None] if shape[1:2] == (k,) else [0]}
    known = [None, 0, [0], k, -1, "a", k - 1, list(range(k)), each, each[:, None].int(), pairs]
    return st.sampled_from(fitting.get(len(shape), known)) | st.sampled_from(known)


def _where(n: int, t: int) -> st.SearchStrategy[Tensor]:
    return st.sampled_from([torch.ones(n, dtype=torch.bool), torch.zeros(n, t).bool(),
                            torch.arange(n) % 2 > 0])  # fmt: skip


@st.composite
def cam_losses(draw: Any) -> tuple[Any, dict[str, Any]]:
    """A loss of the map, and what its twin is told: the options that it was made with."""
    name = draw(st.sampled_from(sorted(cam.CAM_LOSSES)))
    options = some(draw, max_pair_pull=st.sampled_from([None, 0.5, 2.0]), reduction=REDUCTIONS)
    if name == "iou":
        options |= some(draw, threshold=st.sampled_from([0.2, 0.5]), sharpness=st.just(3.0),
                        binarize=st.sampled_from(["tone", "sigmoid"]))  # fmt: skip
    elif name == "ppce":
        options |= some(draw, eps=st.sampled_from([1e-2, 1.0]))
    elif name in ("energy", "outside"):
        options |= some(draw, away=st.booleans())
    graph = some(
        draw,
        weight_grad=st.sampled_from(["full", "detach"]),
        head=st.sampled_from(["auto", "autograd", "auto", "closed"]),
    )
    made: Any = cam.CAM_LOSSES[name]
    told = options | {"loss": name, "detach": graph.get("weight_grad") == "detach"}
    return made(**options, **graph), told


def _with_stats(module: Any) -> Callable[..., Any]:
    """A loss's call; the loss, and how many pairs are valid and dead."""

    @functools.wraps(module.forward)
    def call(*args: Any, **options: Any) -> tuple[Tensor, ...]:
        return module(*args, **options), *module.stats.counts

    return call


_OF_MODULES = ("head", "weight_grad", "reduction", "sync")


@st.composite
def module_calls(draw: Any) -> Call:
    """Of the losses as modules, and of the maps, on a tensor's graph."""
    twin: Any
    n, k, c, h, w = (draw(SIZES) for _ in range(5))
    dtype, plain = draw(st.sampled_from(DTYPES[:2])), draw(st.booleans())
    exact = plain and dtype == torch.float64
    activations = draw(tensors((n, c, h, w), dtype, plain)).detach().requires_grad_()
    weight = draw(tensors((k, c), dtype, plain)).detach().requires_grad_()
    logits = activations.mean((-2, -1)) @ weight.T
    if draw(st.booleans()):
        logits = logits.tanh()
    leaves = [activations, weight]
    shape = draw(st.sampled_from([(n, h, w), (n, k, h, w), (n, 1, h, w)]))
    mask = draw(tensors(shape, torch.float32, True))
    which = draw(st.sampled_from(["loss", "loss", "loss", "maps", "pairs", "contrast", "pixels"]))
    targets = draw(_targets(n, k, shape if which in ("loss", "pixels") else ()))
    if which == "maps":
        options = some(draw, targets=st.just(targets), normalize=st.booleans(),
                       create_graph=st.booleans(), head=st.sampled_from(["auto", "x"]))  # fmt: skip
        return Call(
            fastcam.grad_cam_maps, [logits, activations], options, twins.maps, exact, leaves
        )
    options = some(
        draw,
        where=_where(n, 1 if len(shape) == 3 else shape[1]),
        normalizer=st.sampled_from([1.0, 3, torch.tensor(2.0)])
        | st.sampled_from([0.0, -1.0, math.nan]),
    )
    if which == "contrast":
        return _contrast(draw, logits, activations, targets, options, exact, leaves)
    if which == "pixels":
        made = fastcam.InputGradientLoss(draw(REDUCTIONS))
        twin = functools.partial(twins.input_gradient_loss, made.reduction)
        args = [logits, activations, mask, targets]
        return Call(made, args, options, twin, exact, leaves, names=_OF_MODULES)
    module, told = draw(cam_losses())
    weights = [tensors(of, torch.float32, True) for of in ((h, w), (n, 1, h, w))]
    cells = some(draw, cell_weights=st.one_of(weights))
    if which == "pairs":
        options.pop("normalizer", None)
        twin = functools.partial(twins.valid_pairs, told["loss"], told.get("away", False))
        return Call(module.valid_pairs, [mask], options | cells, twin, plain)
    signs = st.sampled_from([torch.ones(n), -torch.ones(n, 1), torch.zeros(n), torch.ones(n, 3)])
    options |= cells | some(draw, signs=signs)
    twin = functools.partial(twins.cam_loss, told)
    args = [logits, activations, mask, targets]
    return Call(_with_stats(module), args, options, twin, exact, leaves, names=_OF_MODULES)


def _contrast(
    draw: Any, logits: Any, activations: Any, targets: Any, options: Any, *known: Any
) -> Call:
    made = fastcam.ContrastCamLoss(
        **some(draw, reduction=REDUCTIONS, weight_grad=st.sampled_from(["full", "detach"]))
    )
    twin = functools.partial(twins.contrast_loss, made.reduction, made.weight_grad == "detach")
    others = draw(st.sampled_from([targets, 0, [1], None]))
    args = [logits, activations, targets, others]
    exact, leaves, *around = known
    extra = {"around": around[0]} if around else {}
    return Call(made, args, options, twin, exact, leaves, names=_OF_MODULES, **extra)


# --- networks -------------------------------------------------------------------------------------


@st.composite
def networks(draw: Any) -> twins.Network:
    """With a layer "map", whose output a head takes."""
    form = draw(st.sampled_from(["nchw", "nchw", "nchw", "tokens", "nhwc"]))
    square = [(2, 2), (1, 1), (3, 3)]
    net = twins.Network(
        form,
        draw(st.sampled_from(["flat", "mean", "two", "tanh", "in place"])),
        draw(st.sampled_from(["max", "average", "none"])),
        (draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))),
        draw(st.sampled_from(square if form == "tokens" else [*square, (2, 3)])),
    )
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=rng, dtype=torch.float64) - 0.3
    if draw(st.integers(0, 2)) == 0:
        net.to(torch.float32)
    return net.train(draw(st.booleans()))


@st.composite
def tap_calls(draw: Any) -> Call:
    """Of a tap, and of losses and maps with one."""
    twin: Any
    names: tuple[str, ...]
    net = draw(networks())
    n, k, (h, w) = draw(SIZES), net.classes, net.cells
    dtype = next(net.parameters()).dtype
    images = draw(tensors((n, 2, h, w), dtype, plain := draw(st.booleans())))
    exact = plain and dtype == torch.float64
    leaves = list(net.parameters())
    layers = st.sampled_from(
        ["map", "map", "trunk", "pool", "head", "head.0", "nope", "", "map.", net.map, net, 3]
    )
    forms = st.sampled_from(["auto", "tokens", "nhwc", "nchw", "x"])
    fitting = {"reshape": net.form} if net.form != "nchw" else {}
    if draw(st.integers(0, 2)) == 0:
        chosen = some(draw, gradient_at=layers, reshape=forms)
        if draw(st.booleans()):
            return Call(fastcam.ActivationTap, [net, draw(layers)], chosen)
        twin = functools.partial(twins.look, images)
        look = functools.partial(_look, images)
        layer, chosen = (draw(layers), chosen) if draw(st.booleans()) else ("map", fitting)
        exact = exact and layer in ("map", net.map) and chosen == fitting
        names = ("activations", "logits", "head")
        return Call(look, [net, layer], chosen, twin if exact else None, exact, leaves, names=names)
    fitting = {"reshape": net.form}  # said: of few channels it cannot be told
    if net.form == "nchw":
        fitting |= some(draw, gradient_at=st.just("pool"))
    tap = fastcam.ActivationTap(net, draw(st.sampled_from(["map", net.map])), **fitting)
    graph = draw(st.integers(0, 4)) > 0

    @contextlib.contextmanager
    def forward() -> Iterator[dict[str, Any]]:
        with tap, torch.set_grad_enabled(graph):
            yield {"tap": tap, "logits": net(images)}

    given = [Within("logits"), Within("tap")]
    targets = draw(_targets(n, k))
    names = (*_OF_MODULES, "gradient_at")
    which = draw(st.sampled_from(["maps", "loss", "contrast", "balance", "balance"]))
    if which == "maps":
        options = some(draw, targets=st.just(targets), normalize=st.booleans(),
                       create_graph=st.booleans())  # fmt: skip
        twin = functools.partial(twins.maps_of, net, images)
        return Call(fastcam.grad_cam_maps, given, options, twin, exact, leaves if graph else (),
                    forward, names)  # fmt: skip
    if which == "balance":
        return _balance(draw, net, tap, images, exact, graph)
    options = some(draw, where=_where(n, 1))
    on_graph = functools.partial(twins.on_graph, net, images)
    leaves = leaves if graph else []
    if which == "contrast":
        call = _contrast(draw, given[0], given[1], targets, options, exact, leaves, forward)
    else:
        module, told = draw(cam_losses())
        shape = draw(st.sampled_from([(n, h, w), (n, k, h, w), (n, 1, h, w)]))
        args = [*given, draw(tensors(shape, torch.float32, True)), draw(_targets(n, k, shape))]
        twin = functools.partial(twins.cam_loss, told)
        call = Call(_with_stats(module), args, options, twin, exact, leaves, forward, names)
    call.twin = functools.partial(on_graph, call.twin)
    return call


def _look(
    images: Tensor, model: Any, layer: Any, gradient_at: Any = None, *, reshape: Any = None
) -> Any:
    """A tap that is made, entered and looked at."""
    with fastcam.ActivationTap(model, layer, gradient_at, reshape=reshape) as tap:
        logits = model(images)
        return tap.activations, fastcam.grad_cam_maps(logits, tap, create_graph=True)


def _balance(
    draw: Any, net: twins.Network, tap: Any, images: Tensor, exact: bool, graph: bool
) -> Call:
    """Of a balance of one or two losses: as calls, and in the parts of a step."""
    n = len(images)
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    labels = (torch.rand(n, net.classes, generator=rng) > 0.5).to(images.dtype)
    two = draw(st.booleans())
    pulls = draw(st.sampled_from([1.0, 0.0, 0.5, [1.0, 0.5], [2.0]]))
    made = fastcam.Balance(pulls, **some(draw, every=st.sampled_from([None, 1, 2, 8])))
    made.train(draw(st.integers(0, 3)) > 0)
    losses = [fastcam.EnergyCamLoss(), fastcam.OutsideCamLoss()][: 1 + two]

    @contextlib.contextmanager
    def forward() -> Iterator[dict[str, Any]]:
        with tap, torch.set_grad_enabled(graph):
            logits = net(images)
            label_loss = nnf.binary_cross_entropy_with_logits(logits, labels)
            height, width = tap.activations.shape[-2:]
            drawn = torch.Generator().manual_seed(1)
            cells = torch.rand(n, net.classes, height, width, generator=drawn)
            of = [loss(logits, tap, cells) if graph else label_loss * 0 for loss in losses]
            terms = [(loss, tap) for loss in of]
            yield {"labels": label_loss, "guidance": terms if two else of[0], "tap": tap}

    times, parts = draw(st.integers(1, 3)), draw(st.booleans())
    args: list[Any] = [Within("labels"), Within("guidance")]
    args += [] if two else [Within("tap")]
    function = functools.wraps(made.gather if parts else made.forward)(
        functools.partial(twins.in_parts if parts else twins.in_calls, made, times)
    )
    measures = (made.training and made.every is not None) or parts
    twin = functools.partial(twins.balanced, made.pull, net, measures)
    leaves = list(net.parameters()) if graph else []
    # The ratios are float32.
    return Call(function, args, {}, twin, exact and graph, leaves, forward,
                ["pull", "activations"], close=1e-5)  # fmt: skip


# --- options --------------------------------------------------------------------------------------


@st.composite
def attention_losses(draw: Any) -> Call:
    """Of the attention network's loss, as a function and as a module."""
    n, k, h, w = (draw(SIZES) for _ in range(4))
    dtype, plain = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    leaves: list[Tensor] = []

    def made(*shape: int) -> Tensor:
        leaves.append(draw(tensors(shape, dtype, plain)).detach().requires_grad_())
        return leaves[-1]

    outputs = attention.AttentionOutputs(
        made(n, k),
        made(n, k) if draw(st.booleans()) else None,
        made(n, 3, h, w) if draw(st.booleans()) else None,
        made(n, k),
    )
    if draw(st.integers(0, 5)) == 0:
        field = draw(st.sampled_from(attention.AttentionOutputs._fields))
        value = draw(st.sampled_from([None, "a", torch.zeros(2), torch.zeros(n, k).long()]))
        outputs, plain = outputs._replace(**{field: value}), False
    labels = draw(tensors((n, k), torch.float32, True)) > 0.5
    args = [outputs, labels if draw(st.booleans()) else labels.to(dtype)]
    options = some(draw, images=tensors((n, 3, h, w), dtype, plain))
    weights = some(draw, lambda_b=NUMBERS, lambda_m=NUMBERS, lambda_r=NUMBERS, lambda_1=NUMBERS)
    exact = plain and dtype == torch.float64
    if draw(st.booleans()):
        options |= weights
        return Call(attention.attention_loss, args, options, twins.attention_loss, exact, leaves,
                    names=attention.AttentionOutputs._fields)  # fmt: skip
    return Call(fastcam.AttentionLoss(), args, options, twins.attention_loss, exact, leaves,
                names=attention.AttentionOutputs._fields)  # fmt: skip


@st.composite
def option_calls(draw: Any) -> Call:
    """Of what losses are made with, and of the attention network's loss."""
    names: tuple[str, ...]
    which = draw(st.sampled_from(["balance", "iou", "others", "attention", "attention", "weights"]))
    if which == "attention":
        return draw(attention_losses())
    if which == "weights":
        names = ("lambda_b", "lambda_m", "lambda_r", "lambda_1")
        return Call(fastcam.AttentionLoss, [], some(draw, **dict.fromkeys(names, NUMBERS)))
    if which == "balance":
        options = some(draw, every=st.sampled_from([None, 1, 8, 0, 1.5]),
                       sync=st.sampled_from(["global", "local", "none"]))  # fmt: skip
        return Call(fastcam.Balance, [draw(NUMBERS)], options)
    words = st.sampled_from(["auto", "mean", "detach", "global", "x", None])
    shared: dict[str, Any] = some(draw, head=words, reduction=words, sync=words, weight_grad=words)
    if which == "others":
        made = draw(st.sampled_from(
            [fastcam.ContrastCamLoss, fastcam.InputGradientLoss, fastcam.EnergyCamLoss,
             fastcam.OutsideCamLoss, fastcam.CenterCamLoss, fastcam.L1CamLoss, fastcam.PPCECamLoss]
        ))  # fmt: skip
        return Call(made, [], shared, names=_OF_MODULES)
    names = ("threshold", "sharpness", "max_pair_pull")
    return Call(fastcam.IoUCamLoss, [], shared | some(draw, **dict.fromkeys(names, NUMBERS)))
