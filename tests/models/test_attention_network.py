"""The attention network and its loss beside a plain twin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small_attention import (
    HIDDEN,
    C,
    K,
    N,
    batch,
    plain_loss,
    plain_mask,
    plain_outputs,
    small_network,
)
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastcam
from fastcam import functional
from fastcam.losses.attention import AttentionLoss
from fastcam.models import AttentionNetwork


@pytest.mark.parametrize("options", HIDDEN, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_loss_and_gradients_are_those_of_a_plain_twin(
    training: bool, options: dict[str, int]
) -> None:
    network = small_network(**options).train(training)
    images, labels = batch()
    assert network.features(images).shape == (N, C, 5, 4)
    twin = copy.deepcopy(network)
    outputs = network.outputs(images)
    expected = plain_outputs(twin, images, 1.0, 0.0)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(copy.deepcopy(network)(images), outputs.binary)
    terms = AttentionLoss()(outputs, labels, images)
    loss = plain_loss(expected, labels, images)
    torch.testing.assert_close(terms.total, loss)
    terms.total.backward()
    loss.backward()
    for (name, mine), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None, name
        assert mine.grad.any(), name
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize("reconstructor", [True, False])
def test_parts_can_be_left_out(multilabel: bool, reconstructor: bool) -> None:
    network = small_network(multilabel=multilabel, reconstructor=reconstructor)
    images, labels = batch()
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
    network, seen = small_network(), []
    network.register_forward_hook(lambda *_: seen.append(1))
    images, labels = batch()
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


def test_layers_of_each_norm() -> None:
    for norm, kind in (("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", None)):
        network = AttentionNetwork(2, 16, norm=norm)
        found = [
            layer
            for part in (network.features, network.reconstructor)
            for layer in part.modules()
            if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm, nn.Conv2d))
        ]
        convolutions = [layer for layer in found if isinstance(layer, nn.Conv2d)]
        # What a norm follows needs no bias; the image is not normalised.
        assert [c.bias is not None for c in convolutions] == [norm == "none"] * 9 + [True]
        assert all(type(layer) in (kind, nn.Conv2d) for layer in found)
        assert len(found) == (19 if kind else 10)
        if kind is nn.GroupNorm:
            groups = {n.num_channels: n.num_groups for n in found if isinstance(n, nn.GroupNorm)}
            assert groups == {4: 4, 8: 8, 16: 8}


@pytest.mark.parametrize("hidden", [0, 32])
def test_a_new_network_says_little_and_masks_half(hidden: int) -> None:
    torch.manual_seed(0)
    network = AttentionNetwork(12, 64, mask_hidden=hidden, classifier_hidden=hidden)

    def deviation(weight: Tensor) -> float:
        return float(weight.detach().std())

    inputs = hidden or 64
    assert deviation(network.masks_conv.weight) == pytest.approx(inputs**-0.5, rel=0.05)
    assert deviation(network.binary.weight) == pytest.approx(inputs**-0.5, rel=0.15)
    if hidden:
        assert network.masks_hidden is not None
        for weight in (network.masks_hidden.weight, network.binary.hidden_weight):
            assert deviation(weight) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert network.multilabel is not None and network.reconstructor is not None
    for layer in (network.multilabel[-1], network.reconstructor.image):
        assert deviation(layer.weight) == pytest.approx(0.01, rel=0.1)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_the_loss_is_the_options() -> None:
    images, labels = batch()
    weights = {"lambda_b": 0.5, "lambda_m": 2.0}
    network = small_network(loss=weights)
    outputs = copy.deepcopy(network).outputs(images)
    wanted = AttentionLoss(**weights)(outputs, labels, images).total
    torch.testing.assert_close(network.training_loss(images, labels)[1].total, wanted)
    assert not torch.allclose(wanted, AttentionLoss()(outputs, labels, images).total)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_masks_of_chosen_attributes(options: dict[str, int]) -> None:
    network = small_network(**options).eval()
    images, _ = batch()
    features = network.features(images)
    masks = torch.stack([plain_mask(network, features, k) for k in range(K)], 1)
    torch.testing.assert_close(network.masks(images), masks)
    chosen = network.masks(images, [3, 1])
    assert chosen.shape == (N, 2, C, 5, 4)
    torch.testing.assert_close(chosen, masks[:, [3, 1]])
    torch.testing.assert_close(network.masks(images).sum((2, 3, 4)), network.outputs(images).l1)
    for wrong in (K, -1):
        with pytest.raises(ValueError, match=rf"attributes: expected indices .* 3, got {wrong}"):
            network.masks(images, [0, wrong])
    torch.testing.assert_close(network.masks(images, torch.tensor([3, 1])), chosen)
    for wrong, got in ([1.7], "1.7"), ([True], "True"), (["1"], "'1'"), (torch.ones(2), r"ten.*"):
        with pytest.raises(TypeError, match=rf"attributes: expected indices .* 3, got {got}"):
            network.masks(images, wrong)
    with pytest.raises(TypeError, match="attributes: .* got tensor"):
        network.masks(images, torch.tensor([True, False, True, False]))
    with pytest.raises(TypeError, match="attributes: expected a sequence of indices, got 1"):
        network.masks(images, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attributes: expected at least one index, got none"):
        network.masks(images, [])


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_shapes_without_values(options: dict[str, int]) -> None:
    network = small_network(torch.float32, **options).to("meta")
    outputs = network.outputs(batch(dtype=torch.float32)[0].to("meta"))
    assert (outputs.binary.shape, outputs.l1.shape) == ((N, K), (N, K))


def test_low_precision_and_autocast() -> None:
    network = small_network(torch.float32)
    images, labels = batch(dtype=torch.float32)
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


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_under_autocast_masks_are_made_in_its_dtype(
    options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, (images, labels) = small_network(torch.float32, **options), batch(dtype=torch.float32)
    seen = []

    def spied(op: Any, *arguments: Any, **options: Any) -> Any:
        seen.extend(x.dtype for x in arguments if isinstance(x, Tensor))
        return op(*arguments, **options)

    for name in ("attend", "attend_conv1x1"):
        monkeypatch.setattr(functional, name, partial(spied, getattr(functional, name)))
    with torch.autocast("cpu", torch.bfloat16):
        terms = network.training_loss(images, labels)[1]
    assert set(seen) == {torch.bfloat16}
    assert terms.l1.dtype == torch.float32


def test_wrong_images_are_named() -> None:
    network = small_network()
    images, _ = batch()
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
        (
            {"num_attributes": 0},
            ValueError,
            "num_attributes: expected a whole number of at least 1, got 0",
        ),
        ({"channels": "64"}, TypeError, "channels: expected a whole .* got '64'"),
        ({"channels": 0}, ValueError, "channels: expected a whole number of at least 1, got 0"),
        ({"stride": 6}, ValueError, "stride: expected a power of two, got 6"),
        ({"stride": 1}, ValueError, "stride: expected a whole number of at least 2, got 1"),
        (
            {"dilations": [1, 0]},
            ValueError,
            "dilations: expected a whole number of at least 1, got 0",
        ),
        ({"dilations": 2}, TypeError, "dilations: expected a sequence of integers, got 2"),
        ({"norm": "layer"}, ValueError, "norm: expected one of 'batch', 'group', 'none'"),
        (
            {"mask_hidden": -1},
            ValueError,
            "mask_hidden: expected a whole number of at least 0, got -1",
        ),
        ({"classifier_hidden": 2.5}, TypeError, "classifier_hidden: expected a whole .* got 2.5"),
        ({"multilabel": "no"}, TypeError, "multilabel: expected True or False, got str"),
        ({"reconstructor": 0}, TypeError, "reconstructor: expected True or False, got int"),
        ({"loss": {"lambda_b": -1}}, ValueError, "lambda_b: expected a number finite"),
        ({"loss": {"lambda_b": "1"}}, TypeError, "lambda_b: expected a number .*got str"),
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


class _Adapted(nn.Module):
    """A layer with an adapter beside it, as LoRA makes it: its weight is not all that it does."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.beside = base, copy.deepcopy(base)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.beside(x)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_wrapped_layers_of_the_masks_do_what_they_do(options: dict[str, int]) -> None:
    network = small_network(**options).eval()
    images, _ = batch()
    doubled = copy.deepcopy(network)
    with torch.no_grad():
        doubled.masks_conv.weight.mul_(2)
        doubled.masks_conv.bias.mul_(2)
    network.masks_conv = _Adapted(network.masks_conv)  # type: ignore[assignment]
    torch.testing.assert_close(network(images), doubled(images))
    torch.testing.assert_close(network.masks(images, [3, 1]), doubled.masks(images, [3, 1]))
    with torch.no_grad(), network.transform(n=2.0, beta=0.5), doubled.transform(n=2.0, beta=0.5):
        torch.testing.assert_close(network(images), doubled(images))
    network(images).sum().backward()
    doubled(images).sum().backward()
    expected = doubled.masks_conv.weight.grad
    torch.testing.assert_close(network.masks_conv.beside.weight.grad, expected)


@pytest.mark.parametrize("how", ["hook", "forward", "class"])
def test_a_layer_of_the_masks_that_does_more_than_its_weight_says(how: str) -> None:
    network = small_network().eval()
    images, _ = batch()
    doubled = copy.deepcopy(network)
    layer = network.masks_conv
    with torch.no_grad():
        doubled.masks_conv.weight.mul_(2)
        doubled.masks_conv.bias.mul_(2)
    plain = layer.forward

    class Twice(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    if how == "hook":
        layer.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    elif how == "forward":
        layer.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]
    else:
        layer.__class__ = Twice
    torch.testing.assert_close(network(images), doubled(images))
    torch.testing.assert_close(network.masks(images, [3, 1]), doubled.masks(images, [3, 1]))


@pytest.mark.parametrize("layer", ["masks_hidden", "masks_conv"])
def test_pruned_masks_train(layer: str) -> None:
    network = small_network(mask_hidden=2)
    prune.l1_unstructured(getattr(network, layer), "weight", amount=0.5)
    images, _ = batch()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(images).sum().backward()
        optimizer.step()
    pruned = network(images)
    prune.remove(getattr(network, layer), "weight")
    torch.testing.assert_close(network(images), pruned)
