"""The attention network and its loss beside a plain twin; the transformation of its masks."""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastcam
from fastcam import functional as F
from fastcam import reference
from fastcam.losses.attention import AttentionLoss, AttentionOutputs, attention_loss
from fastcam.models import AttentionNetwork

N, K, C = 3, 4, 6
SMALL: dict[str, Any] = {"stride": 4, "dilations": (1, 2)}


def _network(dtype: torch.dtype = torch.float64, **options: Any) -> AttentionNetwork:
    """Small, with weights large enough that masks and logits are far from their start."""
    network = AttentionNetwork(K, C, **{**SMALL, **options}).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def _batch(size: tuple[int, int] = (18, 13), dtype: torch.dtype = torch.float64) -> Any:
    images = torch.randn(N, 3, *size, dtype=dtype)
    return images, (torch.rand(N, K) < 0.5).to(dtype)


def _plain_features(network: AttentionNetwork, images: Tensor) -> Tensor:
    """f_f by hand: strides 2, 2, then dilations 1, 2; batch statistics in training mode."""
    x = images
    for (conv, norm, _), (stride, dilation) in zip(
        network.features, [(2, 1), (2, 1), (1, 1), (1, 2)], strict=True
    ):
        x = nnf.conv2d(x, conv.weight, None, stride, dilation, dilation)
        mean, var = norm.running_mean, norm.running_var
        if network.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
        x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    return x


def _plain_mask(network: AttentionNetwork, f: Tensor, k: int) -> Tensor:
    """M^k [N,C,h,w]: a layer for each attribute, two with mask_hidden."""
    for conv in filter(None, (network.masks_hidden, network.masks_conv)):
        if conv is network.masks_conv and network.masks_hidden is not None:
            f = f.relu()
        rows = slice(k * conv.out_channels // K, (k + 1) * conv.out_channels // K)
        weight, bias = conv.weight[rows, :, 0, 0], conv.bias[rows]
        f = torch.einsum("oc,nchw->nohw", weight, f) + bias[:, None, None]
    return f.sigmoid()


def _plain_classifier(network: AttentionNetwork, attended: Tensor, k: int) -> Tensor:
    """Logit k [N] from [N,C]."""
    binary = network.binary
    if binary.hidden_weight is not None:
        attended = (attended @ binary.hidden_weight[k].T + binary.hidden_bias[k]).relu()
    return attended @ binary.weight[k] + binary.bias[k]


def _plain_outputs(network: AttentionNetwork, images: Tensor, n: float, beta: float) -> Any:
    """Every part by hand, with all masks held: Kimura & Tanaka, eq. 2, 4, 7, 8, 9."""
    f = _plain_features(network, images)
    masks = torch.stack([_plain_mask(network, f, k) for k in range(K)], 1)
    attended = (1 + reference.tone_curve(masks, n, beta)) * f[:, None]
    binary = [_plain_classifier(network, attended[:, k].mean((-2, -1)), k) for k in range(K)]
    hidden, last = network.multilabel[2], network.multilabel[4]
    multilabel = nnf.linear(
        nnf.linear(f.mean((-2, -1)), hidden.weight, hidden.bias).relu(), last.weight, last.bias
    )
    x = f
    for up, layer in zip(*[iter(network.reconstructor.layers)] * 2, strict=True):
        assert isinstance(up, nn.Upsample)
        x = layer(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    image = network.reconstructor.image
    x = nnf.conv2d(x, image.weight, image.bias, padding=1)
    return AttentionOutputs(
        torch.stack(binary, 1),
        multilabel,
        x[..., : images.shape[2], : images.shape[3]],
        masks.flatten(2).sum(-1),
    )


def _plain_loss(outputs: AttentionOutputs, labels: Tensor, images: Tensor) -> Tensor:
    """Eq. 1, 3, 5, 6 as they are written, with loops over images and attributes."""
    entropy = torch.zeros((), dtype=labels.dtype)
    for logits in (outputs.binary, outputs.multilabel):
        y_hat = logits.sigmoid()
        for i, k in itertools.product(range(N), range(K)):
            y = labels[i, k]
            term = y * y_hat[i, k].log() + (1 - y) * (1 - y_hat[i, k]).log()
            entropy = entropy - term / N
    error = (images - outputs.reconstruction).square().sum() / images.numel()
    return entropy + 4 * error + 1e-5 * outputs.l1.sum() / N


HIDDEN = [
    {},
    {"mask_hidden": 5},
    {"classifier_hidden": 3},
    {"mask_hidden": 2, "classifier_hidden": 7},
]


@pytest.mark.parametrize("options", HIDDEN, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_loss_and_gradients_are_those_of_a_plain_twin(
    training: bool, options: dict[str, int]
) -> None:
    network = _network(**options).train(training)
    images, labels = _batch()
    assert network.features(images).shape == (N, C, 5, 4)
    twin = copy.deepcopy(network)
    outputs = network.outputs(images)
    expected = _plain_outputs(twin, images, 1.0, 0.0)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(copy.deepcopy(network)(images), outputs.binary)
    terms = AttentionLoss()(outputs, labels, images)
    loss = _plain_loss(expected, labels, images)
    torch.testing.assert_close(terms.total, loss)
    terms.total.backward()
    loss.backward()
    for (name, mine), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None, name
        assert mine.grad.any(), name
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda text, n=name: f"{n}: {text}")


def test_the_loss_weighs_its_parts_and_gives_them_unweighted() -> None:
    images, labels = _batch()
    outputs = _network().outputs(images)
    weights = {"lambda_b": 2.0, "lambda_m": 3.0, "lambda_r": 5.0, "lambda_1": 7.0}
    terms = attention_loss(outputs, labels.bool(), images, **weights)
    weighted = [weight * part for weight, part in zip(weights.values(), terms[1:], strict=True)]
    torch.testing.assert_close(terms.total, sum(weighted))
    bce = nnf.binary_cross_entropy_with_logits
    torch.testing.assert_close(terms.binary, K * bce(outputs.binary, labels))
    torch.testing.assert_close(terms.multilabel, K * bce(outputs.multilabel, labels))
    torch.testing.assert_close(terms.l1, outputs.l1.mean(0).sum())
    module = AttentionLoss(**weights)
    assert torch.equal(module(outputs, labels, images).total, terms.total)
    assert "lambda_1=7.0" in repr(module)
    assert AttentionLoss().weights == dict(zip(weights, (1.0, 1.0, 4.0, 1e-5), strict=True))
    assert fastcam.AttentionLoss is AttentionLoss


def test_wrong_arguments_of_the_loss_are_named() -> None:
    images, labels = _batch()
    outputs = _network().outputs(images)
    with pytest.raises(ValueError, match=r"labels: expected shape \[3, 4\] \(binary logits\)"):
        attention_loss(outputs, labels[:, :2], images)
    with pytest.raises(TypeError, match="labels: expected a torch.Tensor, got list"):
        attention_loss(outputs, labels.tolist(), images)
    with pytest.raises(ValueError, match=r"images: expected shape \[3, 3, 18, 13\].*got None"):
        attention_loss(outputs, labels)
    with pytest.raises(ValueError, match=r"images: .* got \[3, 3, 9, 9\]"):
        attention_loss(outputs, labels, images[..., :9, :9])
    with pytest.raises(ValueError, match=r"binary: expected logits of shape \[N,K\], got \[2, 3"):
        attention_loss(outputs._replace(binary=outputs.binary.expand(2, N, K)), labels, images)
    with pytest.raises(ValueError, match=r"lambda_r: expected a number finite and >= 0, got -1"):
        AttentionLoss(lambda_r=-1)
    with pytest.raises(ValueError, match="lambda_1: .* got inf"):
        attention_loss(outputs, labels, images, lambda_1=math.inf)


@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize("reconstructor", [True, False])
def test_parts_can_be_left_out(multilabel: bool, reconstructor: bool) -> None:
    network = _network(multilabel=multilabel, reconstructor=reconstructor)
    images, labels = _batch()
    logits, terms = network.training_loss(images, labels)
    assert logits.shape == (N, K)
    outputs = copy.deepcopy(network).outputs(images)
    assert (outputs.multilabel is not None) == (terms.multilabel is not None) == multilabel
    assert (outputs.reconstruction is not None) == reconstructor
    assert (terms.reconstruction is not None) == reconstructor
    total = terms.binary + 1e-5 * terms.l1
    if terms.multilabel is not None:
        total = total + terms.multilabel
    if terms.reconstruction is not None:
        total = total + 4 * terms.reconstruction
    torch.testing.assert_close(terms.total, total)
    terms.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    parts = {name.partition(".")[0] for name in network.state_dict()}
    assert ("multilabel" in parts, "reconstructor" in parts) == (multilabel, reconstructor)


def test_hooks_see_the_forward_of_outputs() -> None:
    network, seen = _network(), []
    network.register_forward_hook(lambda *_: seen.append(1))
    images, labels = _batch()
    network.outputs(images)
    network.training_loss(images, labels)
    assert len(seen) == 2


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_extractor_strides_first_and_then_dilates(norm: str) -> None:
    network = AttentionNetwork(2, 16, norm=norm)
    convolutions = [m for m in network.features.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 8, 16, 16, 16, 16]
    assert [m.stride[0] for m in convolutions] == [2, 2, 2, 1, 1, 1]
    assert [m.dilation[0] for m in convolutions] == [1, 1, 1, 1, 2, 4]
    features = network.features(torch.randn(2, 3, 50, 64))
    assert features.shape == (2, 16, 7, 8)
    assert features.min() == 0
    assert network.outputs(torch.randn(2, 3, 50, 64)).reconstruction.shape == (2, 3, 50, 64)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
@pytest.mark.parametrize(("n", "beta"), [(1.0, 0.0), (4.0, 0.7), (0.5, 1.0), (0.0, 0.2)])
def test_the_transformation_is_that_of_the_paper(
    n: float, beta: float, options: dict[str, int]
) -> None:
    network = _network(**options).eval()
    images, _ = _batch()
    with network.transform(n=n, beta=beta):
        outputs = network.outputs(images)
    expected = _plain_outputs(network, images, n, beta)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    if (n, beta) != (1.0, 0.0):
        assert not torch.allclose(outputs.binary, network(images))


def test_a_transformation_ends_with_its_block() -> None:
    network, other = _network().eval(), _network().eval()
    images, _ = _batch()
    with torch.no_grad():
        plain, others = network(images), other(images)
        with network.transform(n=1.0, beta=0.0):
            assert torch.equal(network(images), plain)
        with network.transform(n=3.0):
            outer = network(images)
            assert torch.equal(other(images), others)
            with other.transform(n=2.0), network.transform(n=0.0):
                assert not torch.equal(network(images), outer)
            assert torch.equal(network(images), outer)
            assert torch.equal(other(images), others)
        assert not torch.equal(outer, plain)
        assert torch.equal(network(images), plain)
        with pytest.raises(KeyError), network.transform(n=3.0):
            raise KeyError
        assert torch.equal(network(images), plain)
        block = network.transform(n=3.0)  # nothing holds before it is entered
        assert torch.equal(network(images), plain)
        with block:
            assert torch.equal(network(images), outer)


def test_a_transformation_stays_in_its_thread() -> None:
    network = _network().eval()
    images, _ = _batch()
    seen: dict[str, Tensor] = {}

    def elsewhere() -> None:
        with torch.no_grad():
            seen["there"] = network(images)

    with torch.no_grad():
        plain = network(images)
        with network.transform(n=3.0):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            here = network(images)
    assert torch.equal(seen["there"], plain)
    assert not torch.equal(here, plain)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_sequences_are_single_calls_in_one_pass(options: dict[str, int]) -> None:
    network = _network(**options).eval()
    images, _ = _batch()
    n, beta = [1.0, 0.5, 4.0], [0.0, 0.3, 1.0]
    passes = []
    network.features.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        with network.transform(n=n, beta=beta):
            several = network.outputs(images)
        assert len(passes) == 1
        assert several.binary.shape == (3, N, K)
        assert several.l1.shape == several.multilabel.shape == (N, K)
        for row, one in zip(several.binary, zip(n, beta, strict=True), strict=True):
            with network.transform(n=one[0], beta=one[1]):
                torch.testing.assert_close(row, network(images))
        with network.transform(n=2.0, beta=beta):
            assert network(images).shape == (3, N, K)
    with network.transform(n=n), pytest.raises(ValueError, match="wrap it in torch.no_grad"):
        network(images)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_a_function_of_the_mask(options: dict[str, int]) -> None:
    network = _network(**options).eval()
    images, _ = _batch()
    shapes = []

    def curve(masks: Tensor) -> Tensor:
        shapes.append(tuple(masks.shape))
        return F.tone_curve(masks, 3.0, 0.5)

    with network.transform(n=3.0, beta=0.5):
        expected = network.outputs(images)
    with network.transform(curve):
        outputs = network.outputs(images)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert shapes == [(N, K, C, 5, 4)]
    with network.transform(lambda masks: (masks > 0.5).to(masks.dtype)):
        assert not torch.allclose(network(images), expected.binary)
    with (
        network.transform(lambda masks: masks[:, 0]),
        pytest.raises(
            ValueError,
            match=r"function: expected it to return a tensor \[3, 4, 6, 5, 4\].*\[3, 6, 5",
        ),
    ):
        network(images)
    with network.transform(lambda masks: 1.0), pytest.raises(ValueError, match="got float"):
        network(images)


def test_training_mode_knows_one_transformation() -> None:
    network = _network().train()
    images, _ = _batch()
    with network.transform(n=1, beta=0):
        assert network(images).shape == (N, K)
    for transform in ({"n": 2.0}, {"beta": 0.5}, {"n": [1.0, 1.0]}, {"function": lambda m: m}):
        with (
            network.transform(**transform),
            pytest.raises(
                ValueError, match=r"transform: training is with T = 1 \+ M.*call eval\(\)"
            ),
        ):
            network(images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": -1.0}, ValueError, "n: expected a number finite and >= 0, got -1"),
        ({"n": math.nan}, ValueError, "n: .* got nan"),
        ({"beta": -0.1}, ValueError, "beta: expected a number finite and >= 0"),
        ({"n": "2"}, TypeError, "n: expected a number or a sequence of numbers, got str"),
        ({"n": [1.0, 2.0], "beta": [0.0]}, ValueError, "beta: .* as long as the other"),
        ({"n": []}, ValueError, "n: expected"),
        ({"function": 3}, TypeError, "function: expected a callable, got int"),
        ({"function": abs, "n": 2.0}, ValueError, "function: .* got both"),
    ],
)
def test_wrong_transformations_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _network().transform(**arguments)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_masks_of_chosen_attributes(options: dict[str, int]) -> None:
    network = _network(**options).eval()
    images, _ = _batch()
    features = network.features(images)
    masks = torch.stack([_plain_mask(network, features, k) for k in range(K)], 1)
    torch.testing.assert_close(network.masks(images), masks)
    chosen = network.masks(images, [3, 1])
    assert chosen.shape == (N, 2, C, 5, 4)
    torch.testing.assert_close(chosen, masks[:, [3, 1]])
    torch.testing.assert_close(network.masks(images).sum((2, 3, 4)), network.outputs(images).l1)
    for wrong in (K, -1):
        with pytest.raises(ValueError, match=rf"attributes: expected indices .* 3, got {wrong}"):
            network.masks(images, [0, wrong])


def test_low_precision_and_autocast() -> None:
    network = _network(torch.float32)
    images, labels = _batch(dtype=torch.float32)
    images, labels = images.repeat(4, 1, 1, 1), labels.repeat(4, 1)
    exact = copy.deepcopy(network)
    expected = exact.training_loss(images, labels)[1].total
    expected.backward()
    half = copy.deepcopy(network).bfloat16()
    cast = copy.deepcopy(network)
    with torch.autocast("cpu", torch.bfloat16):
        total = cast.training_loss(images, labels)[1].total
        total.backward()  # within: its GEMMs are cast, too
    half_total = half.training_loss(images.bfloat16(), labels)[1].total
    half_total.backward()
    for model, loss in ((cast, total), (half, half_total)):
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.05)
        for mine, theirs in zip(model.parameters(), exact.parameters(), strict=True):
            assert mine.grad is not None and mine.grad.dtype == mine.dtype
            cosine = nnf.cosine_similarity(mine.grad.flatten().float(), theirs.grad.flatten(), 0)
            assert cosine > 0.9


def test_wrong_images_are_named() -> None:
    network = _network()
    images, _ = _batch()
    calls: list[Callable[[Tensor], Any]] = [network, network.outputs, network.masks]
    for call in calls:
        with pytest.raises(ValueError, match=r"images: expected shape \[N,3,H,W\], got \[3, 18"):
            call(images[0])
        with pytest.raises(ValueError, match=r"images: expected shape .* got \[3, 2, 18, 13\]"):
            call(images[:, :2])
        with pytest.raises(TypeError, match=r"images: expected dtype float32, .* got torch\.uint8"):
            call(images.to(torch.uint8))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_attributes": 0}, ValueError, "num_attributes: expected at least 1, got 0"),
        ({"channels": "64"}, TypeError, "channels: expected an integer, got '64'"),
        ({"channels": 0}, ValueError, "channels: expected at least 1, got 0"),
        ({"stride": 6}, ValueError, "stride: expected a power of two, got 6"),
        ({"stride": 1}, ValueError, "stride: expected at least 2, got 1"),
        ({"dilations": [1, 0]}, ValueError, "dilations: expected at least 1, got 0"),
        ({"dilations": 2}, TypeError, "dilations: expected a sequence of integers, got 2"),
        ({"norm": "layer"}, ValueError, "norm: expected one of 'batch', 'group', 'none'"),
        ({"mask_hidden": -1}, ValueError, "mask_hidden: expected at least 0, got -1"),
        ({"classifier_hidden": 2.5}, TypeError, "classifier_hidden: expected an integer, got 2.5"),
        ({"multilabel": "no"}, TypeError, "multilabel: expected True or False, got 'no'"),
        ({"reconstructor": 0}, TypeError, "reconstructor: expected True or False, got 0"),
        ({"loss": {"lambda_b": -1}}, ValueError, "lambda_b: expected a number finite"),
        ({"loss": {"lambda_b": "1"}}, TypeError, "lambda_b: expected a number, got str"),
        ({"loss": {"lambda_x": 1.0}}, TypeError, "unexpected keyword argument 'lambda_x'"),
        ({"loss": 5}, TypeError, "loss: expected a mapping of names to weights, got 5"),
    ],
)
def test_wrong_options_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        AttentionNetwork(**options)


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any op returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def _largest_and_saved(run: Callable[[], Tensor]) -> tuple[int, int]:
    saved = [0]

    def pack(tensor: Tensor) -> Tensor:
        saved[0] = max(saved[0], tensor.numel())
        return tensor

    with _Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = run()
        loss.backward()
    return largest.elements, saved[0]


def test_no_tensor_of_the_masks_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops and what autograd keeps, forward and backward; the chunks inside the op are its own."""
    batch, attributes, channels, size = 4, 40, 16, 32
    network = AttentionNetwork(attributes, channels, stride=4, reconstructor=False)
    images = torch.randn(batch, 3, size, size)
    labels = torch.zeros(batch, attributes)
    masks = batch * attributes * channels * (size // 4) ** 2
    largest, saved = _largest_and_saved(lambda: network.training_loss(images, labels)[1].total)
    assert largest < masks / 4
    assert saved < masks / 4
    network.eval()
    with network.transform(lambda m: m):  # the path that holds them is seen
        largest, saved = _largest_and_saved(lambda: network(images).sum())
    assert largest >= masks
    assert saved >= masks
    chunks: list[int] = []
    made = fastcam.ops.attend_conv._Logits.__call__

    def seen(*arguments: Any) -> Tensor:
        logits = made(*arguments)
        chunks.append(logits.numel())
        return logits

    monkeypatch.setattr(fastcam.ops.attend_conv._Logits, "__call__", seen)
    chunk = 1 << 16
    monkeypatch.setitem(fastcam.ops.attend_conv._CHUNK_ELEMENTS, "cpu", chunk)
    for copies in (1, 8):  # a chunk's size does not follow the batch
        chunks.clear()
        network(images.repeat(copies, 1, 1, 1)).sum().backward()
        assert sum(chunks) == 2 * copies * masks
        assert max(chunks) <= chunk < masks
