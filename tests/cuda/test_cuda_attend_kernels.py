"""The CUDA kernels of the tone curve and of attend, emulated, against the reference."""

from __future__ import annotations

import pytest
import torch
from emulation import Emulator, compiler
from torch import Tensor

from fastcam import reference

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

CURVES = ((1.0, 0.0), (4.0, 0.3), (0.0, 0.5), (2.5, 1.0), (0.5, 0.2), (0.01, 0.7), (31.0, 0.0))
# Of what is stored, and of sums in the arithmetic dtype.
STORED = {torch.float64: 1e-12, torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SUMMED = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}

# N, K, C, H, W: what each is there for.
SHAPES = {
    "attention network": (2, 5, 16, 14, 14),
    "odd map, whole vectors": (1, 3, 8, 13, 13),
    "odd everything: value by value": (2, 3, 5, 7, 3),
    "one value": (1, 1, 1, 1, 1),
    "one channel": (3, 4, 1, 9, 11),
    "one attribute": (2, 1, 40, 6, 6),
    "one cell": (2, 3, 72, 1, 1),
    "fewer cells than a vector": (2, 3, 16, 1, 3),
    "channels left over": (1, 9, 22, 4, 4),
    "channel longer than a block": (1, 3, 2, 37, 36),
    "odd channel longer than a block": (1, 2, 2, 33, 37),
    "many attributes": (1, 70, 4, 4, 4),
}


def make(shape, dtype) -> tuple[Tensor, Tensor]:
    n, _, c, h, w = shape
    rng = torch.Generator().manual_seed(5)
    features = torch.randn((n, c, h, w), generator=rng, dtype=torch.float64).to(dtype)
    logits = (3 * torch.randn(shape, generator=rng, dtype=torch.float64)).to(dtype)
    special = torch.tensor([0.0, 60.0, -60.0, 1e4, -1e4, 1e-9, -100.0], dtype=dtype)
    count = min(special.numel(), logits.numel())
    logits.view(-1)[:count] = special[:count]
    logits.view(-1)[-1] = -1e4
    return features, logits


def one_value_off(t: Tensor) -> Tensor:
    """Contiguous, but no vector of it is aligned."""
    return t.new_empty(t.numel() + 1)[1:].view(t.shape).copy_(t)


def assert_near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    size = wanted.abs().max().clamp(min=1e-3)
    torch.testing.assert_close(got.double() / size, wanted / size, rtol=0, atol=tolerance)


def both_orders(call, launches: int = 1):
    """The result; that of warps and blocks in descending order is the same, bit by bit."""
    ascending, descending = Emulator(), Emulator(reversed=True)
    result, other = call(ascending), call(descending)
    for first, second in zip(result, other, strict=True):
        assert torch.equal(first, second)
    assert ascending.traffic.launches == launches
    return result


@pytest.mark.parametrize("place", (lambda t: t, one_value_off), ids=("aligned", "one value off"))
@pytest.mark.parametrize("pool", (False, True), ids=("cells", "pooled"))
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_attend(shape, dtype, pool, place):
    """Forward and backward under one curve after the other."""
    features, logits = (place(t) for t in make(shape, dtype))
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    f, m = features.double().requires_grad_(), logits.double().requires_grad_()
    rng = torch.Generator().manual_seed(6)
    every = dtype == torch.float32 and place is not one_value_off
    for n, beta in CURVES if every else CURVES[1:4:2]:
        z, l1 = reference.attend(f, m, n, beta, pool=pool)
        grad = torch.randn(z.shape, generator=rng).to(dtype)
        grad_l1 = torch.randn(l1.shape, generator=rng).to(acc)
        wanted = torch.autograd.grad((z, l1), (f, m), (grad.double(), grad_l1.double()))
        # u^n is off by n times what u is, which float has from approximations.
        tolerance = STORED[dtype] * max(1.0, n / 8)

        out, mask_sum = both_orders(
            lambda e, n=n, beta=beta: e.attend_forward(features, logits, [n], [beta], pool)
        )
        assert_near(out[0], z.detach(), tolerance)
        assert_near(mask_sum, l1.detach(), SUMMED[dtype])
        got = both_orders(
            lambda e, n=n, beta=beta, g=grad, s=grad_l1: e.attend_backward(
                features, logits, g, s, n, beta, pool
            )
        )
        for one, other in zip(got, wanted, strict=True):
            assert_near(one, other, tolerance)


@pytest.mark.parametrize("pool", (False, True), ids=("cells", "pooled"))
@pytest.mark.parametrize("multiprocessors", (1, 8, 132))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_however_the_work_is_split(dtype, multiprocessors, pool):
    """Over groups of threads, over blocks: the same values; sums differ in their order alone."""
    features, logits = make((2, 40, 8, 14, 14), dtype)
    emulator = Emulator(multiprocessors=multiprocessors)
    exact, exact_l1 = reference.attend(features.double(), logits.double(), 4.0, 0.2, pool=pool)
    out, mask_sum = emulator.attend_forward(features, logits, [4.0], [0.2], pool)
    assert_near(out[0], exact, STORED[dtype])
    assert_near(mask_sum, exact_l1, SUMMED[dtype])
    grad = torch.ones_like(out[0])
    f = features.double().requires_grad_()
    z, _ = reference.attend(f, logits.double(), 4.0, 0.2, pool=pool)
    (wanted,) = torch.autograd.grad(z.sum(), f)
    grad_features, _ = emulator.attend_backward(features, logits, grad, None, 4.0, 0.2, pool)
    assert_near(grad_features, wanted, STORED[dtype])


@pytest.mark.parametrize("pool", (False, True), ids=("cells", "pooled"))
@pytest.mark.parametrize("curves", (3, 64, 100))
@pytest.mark.parametrize("shape", ((1, 3, 8, 5, 5), (1, 2, 40, 2, 2)), ids=str)
def test_many_curves(shape, curves, pool):
    """One launch for up to 64, which reads L once; each curve gives what it gives alone."""
    features, logits = make(shape, torch.float32)
    ns = [0.25 * j for j in range(curves)]
    betas = [j / curves for j in range(curves)]
    emulator = Emulator(count=True)
    many, mask_sum = emulator.attend_forward(features, logits, ns, betas, pool)
    assert emulator.traffic.launches == -(-curves // 64)
    if curves <= 64:
        least = sum(t.nbytes for t in (features, logits, many, mask_sum))
        assert emulator.traffic.bytes <= 1.05 * least
    for j in (0, 1, curves // 2, curves - 1):
        alone, alone_sum = Emulator().attend_forward(
            features, logits, ns[j : j + 1], betas[j : j + 1], pool
        )
        torch.testing.assert_close(many[j], alone[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(mask_sum, alone_sum, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", (False, True), ids=("cells", "pooled"))
@pytest.mark.parametrize("only", ("features", "logits"))
def test_only_one_gradient(only, pool):
    features, logits = make((2, 5, 8, 7, 7), torch.float32)
    grad = torch.rand(logits.shape[:3] if pool else logits.shape)
    arguments = (features, logits, grad, torch.rand(2, 5), 2.5, 0.3, pool)
    both = Emulator().attend_backward(*arguments)
    one = Emulator().attend_backward(
        *arguments, need_features=only == "features", need_logits=only == "logits"
    )
    kept = 0 if only == "features" else 1
    assert one[1 - kept].numel() == 0 and torch.equal(one[kept], both[kept])


def test_no_attributes_have_no_gradient():
    features, logits = torch.rand(2, 3, 4, 4), torch.rand(2, 0, 3, 4, 4)
    grad_features, _ = Emulator().attend_backward(
        features, logits, torch.rand(2, 0, 3, 4, 4), None, 2.0, 0.1, False
    )
    assert (grad_features == 0).all()


def test_nan_stays_with_its_cells():
    features, logits = make((1, 2, 8, 6, 6), torch.float32)
    logits[0, 1, 3, 2, 2] = torch.nan
    out, mask_sum = Emulator().attend_forward(features, logits, [2.0], [0.0], False)
    assert out.isnan().nonzero().tolist() == [[0, 0, 1, 3, 2, 2]]
    assert mask_sum.isnan().nonzero().tolist() == [[0, 1]]


# ---- tone curve ---


def offset_by(values: int, t: Tensor) -> Tensor:
    return t.new_empty(t.numel() + values)[values:].copy_(t)


@pytest.mark.parametrize("count", (1, 3, 16, 1031, 9000))
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize(
    "offsets", ((0, 0), (1, 1), (0, 1), (1, 0)), ids=("aligned", "both off", "grad off", "mask off")
)
def test_tone_curve(count, dtype, offsets):
    rng = torch.Generator().manual_seed(7)
    mask = torch.rand(count, generator=rng).clamp(0.01, 0.99)  # 0^-1 is another test's
    mask[-1] = 0.5
    mask = offset_by(offsets[0], mask.to(dtype))
    grad = offset_by(offsets[1], torch.randn(count, generator=rng).to(dtype))
    exact = mask.double().requires_grad_()
    for n, beta in CURVES:
        wanted = reference.tone_curve(exact, n, beta)
        (wanted_grad,) = torch.autograd.grad(wanted, exact, grad.double())

        def call(emulator, n=n, beta=beta):
            return emulator.tone_curve(mask, n, beta), emulator.tone_curve(mask, n, beta, grad)

        got, got_grad = both_orders(call, launches=2)
        assert_near(got, wanted.detach(), STORED[dtype])
        assert_near(got_grad, wanted_grad, STORED[dtype])


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_a_mask_beyond_the_curve_counts_as_its_ends(dtype):
    beyond = torch.tensor([-torch.inf, -4, -1e-4, 1.01, 5, torch.inf] * 9).to(dtype)
    for n, beta in CURVES:
        out, grad = Emulator().tone_curve(beyond, n, beta), torch.ones_like(beyond)
        assert torch.equal(out, Emulator().tone_curve(beyond.clamp(0, 1), n, beta))
        assert (Emulator().tone_curve(beyond, n, beta, grad) == 0).all()


def test_tone_curve_reads_and_writes_once():
    mask = torch.rand(40000)
    emulator = Emulator(count=True)
    emulator.tone_curve(mask, 4.0, 0.2)
    emulator.tone_curve(mask, 4.0, 0.2, torch.rand(40000))
    traffic = emulator.traffic
    assert traffic.bytes == 5 * 4 * 40000 and traffic.sector_efficiency > 0.99
    assert traffic.vector_accesses == traffic.accesses
