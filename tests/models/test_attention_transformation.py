"""The transformation of masks at inference beside a plain twin."""

from __future__ import annotations

import asyncio
import importlib
import io
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_attention import (
    HIDDEN,
    C,
    K,
    N,
    batch,
    plain_outputs,
    small_network,
)
from torch import Tensor

from fastcam import functional as F


@pytest.mark.parametrize("options", HIDDEN, ids=str)
@pytest.mark.parametrize(("n", "beta"), [(1.0, 0.0), (4.0, 0.7), (0.5, 1.0), (0.0, 0.2)])
def test_the_transformation_is_that_of_the_paper(
    n: float, beta: float, options: dict[str, int]
) -> None:
    network = small_network(**options).eval()
    images, _ = batch()
    with network.transform(n=n, beta=beta):
        outputs = network.outputs(images)
    expected = plain_outputs(network, images, n, beta)
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    if (n, beta) != (1.0, 0.0):
        assert not torch.allclose(outputs.binary, network(images))


def test_a_transformation_ends_with_its_block() -> None:
    network, other = small_network().eval(), small_network().eval()
    images, _ = batch()
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


def test_a_transformation_may_be_kept_and_entered_again() -> None:
    network = small_network().eval()
    images, _ = batch()
    kept = network.transform(n=3.0)
    with torch.no_grad():
        plain = network(images)
        with network.transform(n=3.0):
            expected = network(images)
        for _ in range(2):
            with kept:
                with network.transform(n=0.5), kept:
                    assert torch.equal(network(images), expected)
                assert torch.equal(network(images), expected)
            assert torch.equal(network(images), plain)
        decorated = kept(network)
        assert torch.equal(decorated(images), expected)
        assert torch.equal(decorated(images), expected)
        assert torch.equal(network(images), plain)


def test_blocks_that_overlap_end_each_for_itself() -> None:
    network = small_network().eval()
    images, _ = batch()

    def results(n: float) -> Iterator[Tensor]:
        with network.transform(n=n):
            while True:
                yield network(images)

    with torch.no_grad():
        plain = network(images)
        # Equal ones too: what ends is the block, not one that is like it.
        for settings in ((2.0, 4.0), (4.0, 2.0), (2.0, 2.0)):
            first, second = (results(n) for n in settings)
            next(first)
            last = next(second)
            assert not torch.equal(last, plain)
            first.close()
            assert torch.equal(network(images), last)
            second.close()
            assert torch.equal(network(images), plain)


def test_a_transformation_stays_in_its_task() -> None:
    network = small_network().eval()
    images, _ = batch()

    async def task(n: float, waits: int) -> Tensor:
        with network.transform(n=n):
            for _ in range(waits):
                await asyncio.sleep(0)
            return network(images)

    async def tasks() -> tuple[Tensor, Tensor, Tensor]:
        with network.transform(n=3.0):
            found = await asyncio.gather(task(2.0, 1), task(4.0, 3))
            return *found, network(images)

    with torch.no_grad():
        plain = network(images)
        found = asyncio.run(tasks())
        for mine, n in zip(found, (2.0, 4.0, 3.0), strict=True):
            with network.transform(n=n):
                assert torch.equal(mine, network(images))
        assert torch.equal(network(images), plain)


def test_a_transformation_stays_in_its_thread() -> None:
    network = small_network().eval()
    images, _ = batch()
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


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_recorded_programs_run_without_fastcam(
    options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network(**options).eval()
    images, _ = batch()
    with torch.no_grad(), network.transform(n=3.0, beta=0.5):
        expected = network(images)
        traced = torch.jit.trace(network, images)
        # torch.onnx.export exports so, with this flag up, and knows no ops but torch's.
        flags = importlib.import_module("torch.onnx._internal.exporter._flags")
        monkeypatch.setattr(flags, "_is_onnx_exporting", True)
        assert torch.onnx.is_in_onnx_export()
        exported = torch.export.export(network, (images,))
        monkeypatch.undo()
        kept = torch.export.export(network, (images,))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert "fastcam::" not in str(loaded.inlined_graph)
    assert "fastcam" not in str(exported.graph)
    assert "fastcam" in str(kept.graph)
    torch.testing.assert_close(loaded(images), expected)
    torch.testing.assert_close(exported.module()(images), expected)
    torch.testing.assert_close(kept.module()(images), expected)


@pytest.mark.parametrize("options", HIDDEN, ids=str)
def test_sequences_are_single_calls_in_one_pass(options: dict[str, int]) -> None:
    network = small_network(**options).eval()
    images, _ = batch()
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
    network = small_network(**options).eval()
    images, _ = batch()
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
    network = small_network().train()
    images, _ = batch()
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
        small_network().transform(**arguments)
