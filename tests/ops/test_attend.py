"""``F.tone_curve``, ``F.attend`` and ``F.attend_conv1x1``: Kimura & Tanaka, eq. 2 and 6 to 9."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from samples import far_apart

from fastcam import functional as F
from fastcam import reference

CURVES = (
    *((1.0, 0.0), (4.0, 0.3), (0.0, 0.5), (7.0, 0.0)),
    *((2.5, 1.0), (0.5, 0.2), (0.3, 0.4), (3.7, 0.1)),
)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="session")
def device(device: torch.device) -> torch.device:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if device.type == "cuda" and not has_kernel("fastcam::_attend_forward", "CUDA"):
        pytest.skip("--device cuda: the attention ops have no CUDA kernels yet")
    return device


def curve(m: float, n: float, beta: float) -> float:
    """Kimura & Tanaka, eq. 7 and 8, one value."""
    h = (m / 0.5) ** n / 2 if m < 0.5 else 1 - ((1 - m) / 0.5) ** n / 2
    return (1 + beta) * h - beta


def inputs(shape=(2, 3, 5, 7, 3), dtype=torch.float32, device="cpu", seed=0):
    """Features and logits; among the logits 0, large and enormous ones."""
    rng = torch.Generator().manual_seed(seed)
    n, _, c, h, w = shape
    features = torch.randn((n, c, h, w), generator=rng, dtype=torch.float64)
    logits = 3 * torch.randn(shape, generator=rng, dtype=torch.float64)
    special = torch.tensor([0.0, 60.0, -60.0, 1e4, -1e4, 1e-9], dtype=torch.float64)
    flat = logits.view(-1)
    flat[: min(6, flat.numel())] = special[: flat.numel()]
    return (
        features.to(device, dtype).requires_grad_(),
        logits.to(device, dtype).requires_grad_(),
    )


def close(got, wanted, dtype):
    assert got.dtype == dtype
    scale = wanted.abs().max().item() if wanted.numel() else 0.0
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        got.double(), wanted.double(), rtol=tolerance, atol=tolerance * scale + 1e-300
    )


# ---- tone curve ---


@pytest.mark.parametrize(("n", "beta"), CURVES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tone_curve_is_the_equation(n, beta, dtype, device):
    mask = torch.linspace(0, 1, 101, dtype=torch.float64).to(device, dtype)
    got = F.tone_curve(mask, n, beta)
    values = [curve(m, n, beta) for m in mask.double().tolist()]
    wanted = torch.tensor(values, dtype=torch.float64, device=device)
    close(got, wanted, dtype)
    assert got.shape == mask.shape


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_the_reference_rounds_once(dtype, device):
    """It runs where there are no kernels: float32 in between, as in them."""
    mask = torch.linspace(0, 1, 257, device=device, dtype=dtype)
    wanted = reference.tone_curve(mask.double(), 3.0, 2.0).to(dtype)
    assert torch.equal(reference.tone_curve(mask, 3.0, 2.0), wanted)


def test_tone_curve_special_settings(device):
    mask = torch.rand(3, 5, device=device)
    torch.testing.assert_close(F.tone_curve(mask), mask)
    assert (F.tone_curve(mask, 0.0) == 0.5).all()
    assert F.tone_curve(torch.empty(0, 4, device=device)).shape == (0, 4)
    assert F.tone_curve(torch.tensor(float("nan"), device=device), 2.0).isnan()


@pytest.mark.parametrize(("n", "beta"), CURVES)
def test_tone_curve_gradient(n, beta, device):
    mask = torch.linspace(0.01, 0.99, 40, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: F.tone_curve(m, n, beta), (mask,))
    strided = torch.rand(6, 8, dtype=torch.float64, device=device).t()[::2].requires_grad_()
    got, wanted = (
        torch.autograd.grad(f(strided, n, beta).square().sum(), strided)[0]
        for f in (F.tone_curve, reference.tone_curve)
    )
    torch.testing.assert_close(got, wanted)


def test_flat_curve_has_zero_gradient_at_the_ends(device):
    mask = torch.tensor([0.0, 0.5, 1.0], device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(F.tone_curve(mask, 0.0).sum(), mask)
    assert (grad == 0).all()


@pytest.mark.parametrize(("n", "beta"), (*CURVES, (1.5, 0.0), (1e6, 0.0)))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tone_curve_of_what_resizing_leaves_beyond(n, beta, dtype, device):
    """Counts as 0 or 1, without a gradient; at 0 and 1 there is one."""
    values = [-0.0005, 0.0, 0.25, 0.5, 0.75, 1.0, 1 + (0 if dtype == torch.bfloat16 else 0.00097)]
    beyond = torch.tensor(values, dtype=dtype, device=device, requires_grad=True)
    inside = beyond.detach().clamp(0, 1).requires_grad_()
    wanted = F.tone_curve(inside, n, beta)
    (slopes,) = torch.autograd.grad(wanted.sum(), inside)
    slopes = torch.where(beyond == inside, slopes, 0)
    assert (slopes[1] != 0) == (0 < n <= 1)
    got = F.tone_curve(beyond, n, beta)
    assert torch.equal(got, wanted) and got.isfinite().all()
    assert torch.equal(torch.autograd.grad(got.sum(), beyond)[0], slopes)
    exact = beyond.detach().double().requires_grad_()
    for function in (reference.tone_curve, torch.func.vmap(F.tone_curve, in_dims=(0, None, None))):
        twin = function(exact, n, beta)
        close(got, twin, dtype)
        (twin_slopes,) = torch.autograd.grad(twin.sum(), exact)
        steep = twin_slopes.to(dtype)  # float16 may overflow
        close(slopes.nan_to_num(posinf=1e4), steep.nan_to_num(posinf=1e4), dtype)


@pytest.mark.parametrize("n", (0.0, 0.5, 1.0, 2.5, 4.0))
def test_tone_curve_of_any_value_where_none_is_looked_at(n, device):
    """In a compiled graph, and on a GPU."""
    beyond = torch.tensor([-torch.inf, -3, -1e-4, 1.0001, 5, torch.inf] * 4, device=device)
    compiled = torch.compile(F.tone_curve, fullgraph=True, backend="aot_eager")
    for function in (compiled, *([F.tone_curve] if device.type == "cuda" else [])):
        mask = beyond.clone().requires_grad_()
        got = function(mask, n, 0.5)
        assert torch.equal(got, F.tone_curve(beyond.clamp(0, 1), n, 0.5))
        assert (torch.autograd.grad(got.sum(), mask)[0] == 0).all()


# ---- attend ---


@pytest.mark.parametrize("pool", (False, True))
@pytest.mark.parametrize(("n", "beta"), CURVES)
def test_attend_is_the_equation(pool, n, beta, device):
    """Cell by cell, from the mask itself."""
    features, logits = inputs((2, 2, 3, 2, 3), torch.float64, device)
    z, l1 = F.attend(features, logits, n, beta, pool=pool)
    masks = torch.tensor(
        [1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in logits.flatten().tolist()],
        dtype=torch.float64,
    ).view_as(logits)
    g = masks.clone().apply_(lambda m: curve(m, n, beta))
    wanted = (1 + g.to(device)) * features.detach()[:, None]
    torch.testing.assert_close(z.detach(), wanted.mean((-2, -1)) if pool else wanted)
    torch.testing.assert_close(l1.detach(), masks.sum((2, 3, 4)).to(device))


@pytest.mark.parametrize("pool", (False, True))
@pytest.mark.parametrize(("n", "beta"), CURVES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_attend_equals_the_reference(pool, n, beta, dtype, device):
    for shape in ((2, 3, 5, 7, 3), (1, 1, 1, 1, 1), (3, 2, 9, 14, 14), (2, 4, 3, 4, 4)):
        features, logits = inputs(shape, dtype, device)
        exact_inputs = tuple(t.detach().double().requires_grad_() for t in (features, logits))
        results = []
        for function, (f, m) in ((F.attend, (features, logits)), (reference.attend, exact_inputs)):
            z, l1 = function(f, m, n, beta, pool=pool)
            weight = torch.linspace(-1, 1, z.numel(), device=device).view_as(z).to(z.dtype)
            loss = (z * weight).sum(dtype=torch.float64) + 0.1 * l1.double().sum()
            results.append((z, l1, *torch.autograd.grad(loss, (f, m))))
        (z, l1, *grads), (exact_z, exact_l1, *exact_grads) = results
        close(z, exact_z, dtype)
        close(l1, exact_l1, torch.float64 if dtype == torch.float64 else torch.float32)
        for got, wanted in zip(grads, exact_grads, strict=True):
            close(got, wanted, dtype)


@pytest.mark.parametrize("pool", (False, True))
@pytest.mark.parametrize(("n", "beta"), CURVES)
def test_attend_gradcheck(pool, n, beta, device):
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 3, 2, generator=rng, dtype=torch.float64).to(device)
    logits = torch.randn(2, 2, 3, 3, 2, generator=rng, dtype=torch.float64).to(device)
    leaves = features.requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, m: F.attend(f, m, n, beta, pool=pool), leaves)


@pytest.mark.parametrize("pool", (False, True))
def test_several_settings_are_several_calls(pool, device):
    features, logits = (t.detach() for t in inputs(device=device))
    ns, betas = [n for n, _ in CURVES], [beta for _, beta in CURVES]
    many, l1 = F.attend(features, logits, ns, betas, pool=pool)
    assert l1.shape == (2, 3) and many.shape[0] == len(CURVES)
    for got, n, beta in zip(many, ns, betas, strict=True):
        one, one_l1 = F.attend(features, logits, n, beta, pool=pool)
        torch.testing.assert_close(got, one)
        assert torch.equal(l1, one_l1)
    repeated, _ = F.attend(features, logits, 2.0, betas, pool=pool)
    torch.testing.assert_close(
        repeated, reference.attend(features, logits, [2.0] * len(betas), betas, pool=pool)[0]
    )


@pytest.mark.parametrize("value", (math.inf, -math.inf, math.nan))
def test_what_is_not_finite_stays_in_its_row(value, device):
    """Of several settings too, whose sums are taken apart."""
    shape = (1, 2, 9, 5, 7)
    features, logits = (t.detach() for t in inputs(shape, device=device))
    features[0, 3, 1, 2] = value
    ns, betas = [1.0, 4.0, 2.5, 0.7], [0.0, 0.3, 0.5, 0.0]
    got, _ = F.attend(features, logits, ns, betas, pool=True)
    wanted, _ = reference.attend(features, logits, ns, betas, pool=True)
    torch.testing.assert_close(got, wanted, equal_nan=True)
    assert got.isfinite().sum() == len(ns) * 2 * 8


@pytest.mark.parametrize("cells", (1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 49, 2100))
def test_every_length_of_row(cells, device):
    """Shorter and longer than a vector of any instruction set, with every rest."""
    shape = (2, 3, 7, 1, cells)
    leaves = inputs(shape, device=device)
    exact = tuple(t.detach().double().requires_grad_() for t in leaves)
    for pool in (False, True):
        results = []
        for function, arguments in ((F.attend, leaves), (reference.attend, exact)):
            z, l1 = function(*arguments, 3.0, 0.2, pool=pool)
            loss = z.double().square().sum() + 0.1 * l1.double().sum()
            results.append((z, l1, *torch.autograd.grad(loss, arguments)))
            with torch.no_grad():
                results[-1] += function(*arguments, [3.0, 1.5], 0.2, pool=pool)[:1]
        for got, wanted in zip(*results, strict=True):
            close(got, wanted, torch.float32)


@pytest.mark.parametrize("pool", (False, True))
def test_samples_further_apart_than_32_bits_count(pool, device):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 5, 5, generator=rng).half().to(device)
    logits = torch.randn(2, 3, 4, 5, 5, generator=rng).half().to(device)
    results = []
    for mask_logits in (logits, *far_apart(logits)):
        leaves = [t.detach().requires_grad_() for t in (features, mask_logits)]
        z, l1 = F.attend(*leaves, 2.0, 0.3, pool=pool)
        grads = torch.autograd.grad(z.float().sum() + l1.sum(), leaves)
        results.append([z.detach(), l1.detach(), *grads])
    for near_by, apart in zip(*results, strict=True):
        assert torch.equal(near_by, apart)


def test_only_one_output_used(device):
    for use in (0, 1):
        leaves = inputs(dtype=torch.float64, device=device)
        grads = torch.autograd.grad(F.attend(*leaves, 2.0)[use].sum(), leaves, allow_unused=True)
        exact = torch.autograd.grad(
            reference.attend(*leaves, 2.0)[use].sum(), leaves, allow_unused=True
        )
        for got, wanted in zip(grads, exact, strict=True):
            torch.testing.assert_close(got, torch.zeros_like(got) if wanted is None else wanted)


def test_strides_and_mixed_dtypes(device):
    features, logits = (t.detach() for t in inputs(device=device))
    wanted, _ = F.attend(features, logits, 3.0)
    strided_f = features.contiguous(memory_format=torch.channels_last)
    strided_l = logits.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(F.attend(strided_f, strided_l, 3.0)[0], wanted)
    mixed, l1 = F.attend(features.half(), logits, 3.0)
    assert mixed.dtype == torch.float32 and l1.dtype == torch.float32
    channels = features.shape[1]
    weight = torch.randn(2 * channels, channels, device=device, dtype=torch.float64)
    given = features.half(), weight, weight[:, 0].float()
    for got, of_reference in zip(
        F.attend_conv1x1(*given), reference.attend_conv1x1(*given), strict=True
    ):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, of_reference)


@pytest.mark.parametrize("shape", ((0, 3, 4, 5, 5), (2, 0, 4, 5, 5), (2, 3, 0, 5, 5)))
@pytest.mark.parametrize("pool", (False, True))
def test_empty_axes(shape, pool, device):
    features, logits = inputs(shape, device=device)
    z, l1 = F.attend(features, logits, 2.0, pool=pool)
    assert z.shape == (shape[:3] if pool else shape) and l1.shape == shape[:2]
    grads = torch.autograd.grad(z.sum() + l1.sum(), (features, logits))
    assert all((grad == 0).all() for grad in grads)


# ---- attend_conv1x1 ---


def conv_inputs(n=3, k=4, c=6, h=5, w=4, dtype=torch.float64, device="cpu"):
    rng = torch.Generator().manual_seed(2)
    made = (
        torch.randn((n, c, h, w), generator=rng, dtype=torch.float64),
        torch.randn((k * c, c), generator=rng, dtype=torch.float64) / c**0.5,
        torch.randn((k * c,), generator=rng, dtype=torch.float64),
    )
    return tuple(t.to(device, dtype).requires_grad_() for t in made)


@pytest.mark.parametrize(("n", "beta"), CURVES)
def test_conv1x1_gradcheck(n, beta, device):
    leaves = conv_inputs(2, 2, 3, 2, 2, device=device)
    assert torch.autograd.gradcheck(lambda f, w, b: F.attend_conv1x1(f, w, b, n, beta), leaves)


@pytest.mark.parametrize("chunk", (1, 250, 1 << 20))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_conv1x1_equals_holding_the_logits(chunk, dtype, device, monkeypatch):
    from fastcam.ops import attend_conv

    monkeypatch.setitem(attend_conv._CHUNK_ELEMENTS, device.type, chunk)
    leaves = conv_inputs(dtype=dtype, device=device)
    exact = tuple(t.detach().double().requires_grad_() for t in leaves)
    results = []
    for function, arguments in ((F.attend_conv1x1, leaves), (reference.attend_conv1x1, exact)):
        pooled, l1 = function(*arguments, 4.0, 0.2)
        loss = pooled.double().square().sum() + 0.01 * l1.double().sum()
        results.append((pooled, l1, *torch.autograd.grad(loss, arguments)))
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    for index, (got, wanted) in enumerate(zip(*results, strict=True)):
        loose = {torch.float16: 1e-2, torch.bfloat16: 6e-2}.get(dtype, TOLERANCE[dtype] * 10)
        assert got.dtype == (acc if index == 1 else dtype)
        scale = wanted.abs().max().item()
        torch.testing.assert_close(got.double(), wanted, rtol=loose, atol=loose * scale)


def test_conv1x1_several_settings(device):
    arguments = tuple(t.detach() for t in conv_inputs(device=device))
    many, l1 = F.attend_conv1x1(*arguments, [1, 4], 0.5)
    assert many.shape == (2, 3, 4, 6) and l1.shape == (3, 4)
    for got, n in zip(many, (1, 4), strict=True):
        torch.testing.assert_close(got, F.attend_conv1x1(*arguments, n, 0.5)[0])


# ---- torch's own checks, errors ---


def test_opcheck(device):
    from fastcam.ops.library import raw

    tests = ("test_schema", "test_autograd_registration", "test_faketensor")

    def opcheck(op, *arguments):
        torch.library.opcheck(op, arguments, test_utils=tests)

    features, logits = (t.detach() for t in inputs(device=device))
    mask = torch.rand(4, 5, device=device)
    opcheck(raw._tone_curve, mask, 2.0, 0.1)
    opcheck(raw._tone_curve_backward, mask, mask, 2.0, 0.1)
    for pool in (False, True):
        opcheck(raw._attend_forward, features, logits, [1.0, 2.0], [0.0, 0.5], pool)
        grad = torch.ones(logits.shape[:3] if pool else logits.shape, device=device)
        for grad_l1 in (None, torch.ones(2, 3, device=device)):
            for needs in ((True, True), (False, True), (True, False)):
                opcheck(
                    raw._attend_backward, features, logits, grad, grad_l1, 2.0, 0.1, pool, *needs
                )
    f, w, b = (t.detach() for t in conv_inputs(dtype=torch.float32, device=device))
    opcheck(raw._attend_conv1x1_forward, f, w, b, [2.0], [0.1])
    grad = torch.ones(3, 4, 6, device=device)
    opcheck(raw._attend_conv1x1_backward, f, w, b, grad, None, 2.0, 0.1, True, True, False)


def test_fullgraph_equals_eager(device):
    features, logits = inputs(device=device)
    _, weight, bias = conv_inputs(c=5, dtype=torch.float32, device=device)

    def everything(f, m, w, b):
        z, l1 = F.attend(f, m, 4.0, 0.2)
        pooled, conv_l1 = F.attend_conv1x1(f, w, b, 2.5, 0.1)
        toned = F.tone_curve(torch.sigmoid(m), 3.0, 0.5)
        return z.sum() + l1.sum() + pooled.square().sum() + conv_l1.sum() + toned.sum()

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    leaves = (features, logits, weight, bias)
    results = []
    for function in (everything, compiled):
        loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_double_backward_says_it_is_not_supported(device):
    features, logits = inputs(device=device)
    for out in (F.attend(features, logits, 2.0)[0], F.tone_curve(logits.sigmoid(), 2.0)):
        with pytest.raises(RuntimeError, match="differentiated twice"):
            torch.autograd.grad(out.sum(), (features, logits), create_graph=True)


def attend_with(**changes):
    features, logits = inputs()
    return F.attend(**({"features": features, "mask_logits": logits} | changes))


def conv_with(**changes):
    features, weight, bias = conv_inputs()
    return F.attend_conv1x1(**({"features": features, "weight": weight, "bias": bias} | changes))


@pytest.mark.parametrize(
    ("call", "changes", "error", "parts"),
    [
        (attend_with, {"features": torch.ones(2, 5, 7)}, ValueError, ["features", "[2,5,7]"]),
        (attend_with, {"features": None}, TypeError, ["features", "NoneType"]),
        (
            attend_with,
            {"mask_logits": torch.ones(2, 3, 5, 7, 4)},
            ValueError,
            ["mask_logits", "[2,K,5,7,3]", "[2,3,5,7,4]"],
        ),
        (attend_with, {"n": -1.0}, ValueError, ["n", ">= 0", "-1.0"]),
        (attend_with, {"beta": float("nan")}, ValueError, ["beta", "nan"]),
        (attend_with, {"n": "4"}, TypeError, ["n", "str"]),
        (attend_with, {"n": [1, 2]}, ValueError, ["n, beta", "torch.no_grad()"]),
        (attend_with, {"n": [1, 2], "beta": [0, 0, 0]}, ValueError, ["n", "(3)", "2 values"]),
        (attend_with, {"n": [], "beta": []}, ValueError, ["n", "0 values"]),
        (conv_with, {"weight": torch.ones(7, 6)}, ValueError, ["weight", "[K*6,6]", "[7,6]"]),
        (conv_with, {"bias": torch.ones(3)}, ValueError, ["bias", "[24]", "[3]"]),
    ],
)
def test_bad_input_names_the_argument_what_fits_and_what_came(call, changes, error, parts):
    with pytest.raises(error) as caught:
        call(**changes)
    message = str(caught.value)
    assert message.startswith(parts[0])
    for part in parts[1:]:
        assert part in message


@pytest.mark.parametrize("kind", (np.float32, np.float64, np.int64))
def test_numbers_of_numpy(kind):
    mask = torch.rand(4, 5)
    assert torch.equal(F.tone_curve(mask, kind(2), kind(1)), F.tone_curve(mask, 2.0, 1.0))


def test_tone_curve_bad_input():
    with pytest.raises(TypeError, match="mask: expected dtype"):
        F.tone_curve(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="expected numbers, got a sequence"):
        F.tone_curve(torch.rand(3), [1.0, 2.0])
