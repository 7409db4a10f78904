"""Calls of fastcam's functions, for ``bench.fuzz``: on tensors and, of regions, on arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from bench.fuzz_draws import DTYPES, SIZES, Call, some, tensors
from fastcam import functional as F
from fastcam import reference, regions


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
    leaves = [x.requires_grad_() for x in (activations, gradients) if draw(st.booleans())]
    exact = plain and dtype == torch.float64
    which = draw(st.sampled_from(["grad_cam", "cam_iou_loss", "cam_loss", "valid_targets"]))
    mask = draw(tensors((n, h, w) if single else (n, t, h, w), torch.float32, True))
    shared: dict[str, Any] = some(
        draw,
        cell_weights=st.one_of(
            tensors((h, w), torch.float32, True), tensors((n, 1, h, w), torch.float32, True)
        ),
        where=st.sampled_from([torch.ones(n, dtype=torch.bool), torch.zeros(n, t).bool()]),
    )
    if which == "grad_cam":
        options: dict[str, Any] = some(draw, normalize=st.booleans())
        pair = [activations, gradients]
        return Call(F.grad_cam, pair, options, reference.grad_cam, exact, leaves)
    if which == "valid_targets":
        return Call(F.valid_targets, [mask], shared, reference.valid_targets, plain)
    shared |= some(
        draw,
        reduction=st.sampled_from(["mean", "sum", "none"]),
        max_pair_pull=st.sampled_from([None, 0.5, 1.0, 0.0, -1.0, math.nan]),
        eps=st.sampled_from([1e-6, 1e-3, 1.0, 0.0, math.inf]),
    )
    args = [activations, gradients, mask]
    if which == "cam_iou_loss":
        options = some(
            draw,
            threshold=st.sampled_from([0.1, 0.5, 0.9, 0.0, 1.0, math.nan]),
            sharpness=st.sampled_from([1.0, 8.0, 30.0, 0.5, math.inf]),
            binarize=st.sampled_from(["tone", "sigmoid", "hard", "soft"]),
        )
        exact = exact and options.get("binarize") != "hard"  # a cell on the threshold may move
        return Call(F.cam_iou_loss, args, shared | options, reference.cam_iou_loss, exact, leaves)
    options = some(
        draw,
        loss=st.sampled_from(["iou", "energy", "center", "l1", "ppce", "outside", "none"]),
        away=st.booleans(),
    )
    return Call(F.cam_loss, args, shared | options, reference.cam_loss, exact, leaves)


@st.composite
def attention_calls(draw: Any) -> Call:
    """Of the attention network's ops, and the margins."""
    n, k, c, h, w = (draw(SIZES) for _ in range(5))
    dtype, plain = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    settings = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, -1.0, math.nan, [0.5, 2.0], [1.0], []])
    curve = some(draw, n=settings, beta=settings)
    exact = plain and dtype == torch.float64
    which = draw(st.sampled_from(["tone_curve", "attend", "attend_conv1x1", "margins"]))
    if which == "margins":
        logits = draw(tensors((n, k), dtype, plain)).requires_grad_()
        return Call(F.margins, [logits], {}, reference.margins, exact, [logits])
    if which == "tone_curve":
        mask = draw(tensors(tuple(draw(st.lists(SIZES, max_size=4))), dtype, plain))
        mask.requires_grad_()
        return Call(F.tone_curve, [mask], curve, reference.tone_curve, exact, [mask])
    features = draw(tensors((n, c, h, w), dtype, plain)).requires_grad_()
    if which == "attend":
        logits = draw(tensors((n, k, c, h, w), dtype, plain)).requires_grad_()
        options = curve | some(draw, pool=st.booleans())
        args = [features, logits]
        return Call(F.attend, args, options, reference.attend, exact, args[:])
    twin = reference.attend_conv1x1 if k and c else None  # torch has no convolution to no channel
    weight = draw(tensors((k * c, c), dtype, plain)).requires_grad_()
    bias = draw(tensors((k * c,), dtype, plain)).requires_grad_()
    args = [features, weight, bias]
    return Call(F.attend_conv1x1, args, curve, twin, exact and twin is not None, args[:])


BOXES = st.tuples(*[st.floats(-0.5, 1.5) | st.sampled_from([0, 0.5, 1, "a", math.nan])] * 4)
GRIDS = st.sampled_from([(5, 7), (1, 1), (0, 3), (2.5, 2), (-1, 4), (math.nan, 1), (3,), "ab"])
NAMES = ("wing", "beak", "an eye", "")


@st.composite
def mask_calls(draw: Any) -> Call:
    """Of the regions that masks are."""
    n, r, h, w = (draw(SIZES) for _ in range(4))
    which = draw(st.sampled_from(["masks", "parse", "grid"]))
    if which == "masks":
        mask = draw(tensors((n, r, h, w), draw(st.sampled_from(DTYPES)), draw(st.booleans())))
        whole = draw(st.sampled_from([mask, mask > 0.5, mask[:, 0] if r else mask]))
        return Call(regions.from_masks, [whole, draw(GRIDS | SIZES)])
    if which == "parse":
        known = draw(st.lists(st.sampled_from(NAMES), max_size=3))
        text = draw(st.sampled_from(["wing", "wing, beak", "", "beak,beak", "nose"]) | st.text())
        return Call(regions.MaskRegion.parse, [text, known])
    channels = tuple(draw(st.lists(st.integers(-1, 4), max_size=3)))
    region = regions.MaskRegion(tuple(map(str, channels)), channels)
    # 0 or 255, as they are stored
    masks = (draw(tensors((n, r, h, w), torch.float32, True)) > 0.5).to(torch.uint8) * 255
    if draw(st.booleans()):
        masks = masks.numpy()

    def union(masks: Any, image_size: Any, grid_size: Any, mode: str = "coverage") -> Any:
        parts = torch.as_tensor(masks)[:, list(channels)]
        shares = regions.from_masks(parts.amax(1) > 0, grid_size)
        return (shares > 0).float() if mode == "binary" else shares

    options = some(draw, mode=st.sampled_from(["coverage", "binary", "none"]))
    size = (h, w) if draw(st.booleans()) else draw(GRIDS)
    # The shares are float32.
    return Call(region.grid, [masks, size, draw(GRIDS)], options, union, True, names=["channels"],
                close=1e-6)  # fmt: skip


@st.composite
def region_calls(draw: Any) -> Call:
    """Of a face's regions, in numpy, without a twin in torch; and of masks."""
    names: Any
    n, r = draw(SIZES), draw(SIZES)
    kind = draw(st.sampled_from([np.float32, np.float64, np.int32]))

    def points(*shape: int) -> Any:
        plain = draw(st.booleans())
        values = 50 * draw(tensors(shape, torch.float64, plain)).numpy()
        if np.issubdtype(kind, np.integer):
            values = np.nan_to_num(values, posinf=0, neginf=0).clip(-1000, 1000)
        with np.errstate(over="ignore"):
            return values.astype(kind)

    which = draw(st.sampled_from(
        ["rectangles", "grids", "five", "from_five", "flip", "template", "masks", "region", "parse",
         "made", "rectangles of", "table"]
    ))  # fmt: skip
    if which == "grids":
        options = some(draw, mode=st.sampled_from(["coverage", "binary", "none"]))
        return Call(regions.grids, [points(n, r, 4), draw(GRIDS), draw(GRIDS)], options)
    if which == "masks":
        return draw(mask_calls())
    if which == "parse":
        text = st.text("mouth,_nose0123.-e ", max_size=20) | st.sampled_from(
            ["mouth", "left_eye,nose", "0.1,0.2,0.5,0.9", "0,0,inf,1", "1e400,0,1,1", "nan,0,1,1"]
        )
        return Call(regions.Region.parse, [draw(text)])
    if which == "made":
        names = st.lists(st.sampled_from(["mouth", "nose", "wing", 3]), max_size=3)
        return Call(
            regions.Region, [draw(names | st.just("mouth"))], some(draw, boxes=st.lists(BOXES))
        )
    if which in ("region", "rectangles of"):
        boxes = ((0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0))[: draw(st.integers(0, 2))]
        names = draw(st.sets(st.sampled_from(regions.REGION_NAMES), min_size=not boxes))
        region = regions.Region(tuple(names), boxes)
        if which == "rectangles of":
            return Call(region.rectangles, [points(n, 68, 2)])
        return Call(region.grid, [points(n, 68, 2), draw(GRIDS), draw(GRIDS)])
    if which == "table":
        source, size = (np.array(draw(st.lists(st.integers(-1, 4), max_size=n))) for _ in range(2))
        names = [draw(st.sampled_from("abcdef")) for _ in range(n)]
        arrays = [np.array(names), points(n, 68, 2), source, np.stack([size, size], 1)]
        return Call(regions.LandmarkTable, arrays)
    number = st.sampled_from([1, 178.0, 0, -1.0, math.nan, math.inf])
    return {
        "rectangles": lambda: Call(regions.rectangles, [points(n, 68, 2)]),
        "five": lambda: Call(regions.five_points, [points(n, 68, 2)]),
        "from_five": lambda: Call(
            regions.landmarks_from_five_points, [points(n, 5, 2)],
            some(draw, width=number, height=number),
        ),
        "flip": lambda: Call(regions.flip_landmarks, [points(n, 68, 2), draw(number)]),
        "template": lambda: Call(regions.template_landmarks, [draw(number), draw(number)]),
    }[which]()  # fmt: skip
