"""What breaks gradients over several processes without a word is right, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from networks import grids, small_cnn
from process_group import found_by_all, network
from torch import Tensor, nn
from trap_worker import (
    PLANS,
    RESHARD,
    SHARDED,
    STATIC,
    WORLD,
    accumulated,
    batch,
    convolutional,
    run,
    sharded_around_activations,
    steps,
    with_compiled_trunk,
)

from fastcam import ActivationTap, EnergyCamLoss

pytestmark = pytest.mark.skipif(
    not dist.is_available(), reason="this torch has no torch.distributed"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return found_by_all(run, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("kind", STATIC)
def test_a_static_graph_is_refused_before_its_first_backward(ranks: list[Any], kind: str) -> None:
    for found in ranks:
        assert "DistributedDataParallel(static_graph=True)" in found["static", kind]
        assert "leave static_graph out" in found["static", kind]


def test_a_static_graph_is_right_after_a_step_of_labels(ranks: list[Any]) -> None:
    wanted = steps(network(), batch(), "labels", "closed", "autograd")
    for found in ranks:
        torch.testing.assert_close(found["later"], wanted)


@pytest.mark.parametrize(("head", "grad"), SHARDED)
def test_a_sharded_trunk_and_a_whole_head_are_exact(ranks: list[Any], head: str, grad: str) -> None:
    wanted = steps(network(), batch(), head, head, grad=grad)
    for found in ranks:
        torch.testing.assert_close(found["trunk", head, grad], wanted)


@pytest.mark.parametrize("head", ["auto", "autograd"])
def test_a_head_in_a_wrapper_of_its_own_behind_a_sharded_trunk_is_exact(
    ranks: list[Any], head: str
) -> None:
    wanted = steps(network(), batch(), head, head)
    for found in ranks:
        torch.testing.assert_close(found["head", head], wanted)


@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_weights_kept_whole_between_backwards_are_exact(ranks: list[Any], head: str) -> None:
    """set_reshard_after_backward(False) while gradients add up, and True before the update."""
    wanted = accumulated(network(), batch(), head)
    for found in ranks:
        torch.testing.assert_close(found["accumulated", head], wanted)


def test_a_compiled_trunk_is_exact(ranks: list[Any]) -> None:
    wanted = with_compiled_trunk(batch(), parallel=False)
    for found in ranks:
        torch.testing.assert_close(found["compiled"], wanted)


@pytest.mark.parametrize("sharded", ["whole", "layer"])
@pytest.mark.parametrize("reshard", RESHARD)
@pytest.mark.parametrize(("head", "grad"), SHARDED)
def test_a_sharded_head_is_refused(
    ranks: list[Any], sharded: str, reshard: bool, head: str, grad: str
) -> None:
    """Whatever is done with its weights after a backward."""
    for found in ranks:
        said = found[sharded, reshard, head, grad]
        assert "is sharded by fully_shard" in said
        assert "the modules before the layer" in said


@pytest.mark.parametrize("reshard", RESHARD)
def test_input_gradients_of_a_sharded_network_are_refused(ranks: list[Any], reshard: bool) -> None:
    """Kept whole after that differentiation, its modules would have no gradient at all."""
    for found in ranks:
        assert "a module that is sharded by fully_shard lies in" in found["images", reshard]


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("head", ["closed", "autograd"])
def test_a_model_in_a_sharded_one_is_refused(ranks: list[Any], former: bool, head: str) -> None:
    """What torch said was of a storage of size 0."""
    for found in ranks:
        assert "a model that is sharded as a whole" in found["around", former, head]


def test_activations_of_a_sharded_model_are_exact_where_its_head_is_differentiated_once(
    ranks: list[Any],
) -> None:
    """Given as a tensor; twice, torch spoke of a storage of size 0 in the backward."""
    wanted = sharded_around_activations(None, batch(), "detach")
    for found in ranks:
        torch.testing.assert_close(found["tensor", "detach"], wanted)
        assert "a model that is sharded as a whole" in found["tensor", "full"]


def test_a_linear_layer_of_a_sharded_trunk_does_not_disturb_the_balance(ranks: list[Any]) -> None:
    """Whose bound is of the last linear layer, also of a network whose head has none."""
    wanted = steps(convolutional(), batch(), "autograd")
    for found in ranks:
        torch.testing.assert_close(found["linear"], wanted)


@pytest.mark.parametrize("plan", PLANS)
def test_a_tensor_parallel_head_is_exact_where_it_is_differentiated_once(
    ranks: list[Any], plan: str
) -> None:
    wanted = steps(network(), batch(), "autograd", grad="detach")
    # A process's label loss is meant to be averaged with those of others, of which each has all.
    wanted = [[WORLD * gradient for gradient in gradients] for gradients in wanted]
    for found in ranks:
        torch.testing.assert_close(found["parallel", plan], wanted)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["auto", "input gradient"])
def test_a_second_derivative_of_a_tensor_parallel_head_is_refused(
    ranks: list[Any], plan: str, kind: str
) -> None:
    """torch drops it: the weights got no gradient of the loss, or a part of it, without a word."""
    for found in ranks:
        assert "a tensor-parallel module (DTensor) lies in" in found["twice", plan, kind]


class SyncBatchNorm(torch.autograd.Function):
    """Named as torch's, which runs on GPUs alone: what a head with one leaves in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Normed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SyncBatchNorm.apply(x)


@pytest.mark.parametrize("grad", ["full", "detach"])
def test_a_synchronised_batch_norm_in_the_head_is_refused(tmp_path: Path, grad: Any) -> None:
    images = torch.randn(3, 3, 12, 12)
    net = small_cnn()
    before, behind = (
        nn.Sequential(*net[:4], Normed(), *net[4:]),
        nn.Sequential(*net[:5], Normed(), *net[5:]),
    )
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        criterion = EnergyCamLoss(weight_grad=grad)
        with ActivationTap(before, "5") as tap:
            criterion(before(images), tap, grids(3, 6, 6).float(), 0).backward()
        with ActivationTap(behind, "4") as tap:
            logits = behind(images)
            with pytest.raises(ValueError, match="logits: a SyncBatchNorm lies behind the tapped"):
                criterion(logits, tap, grids(3, 6, 6).float(), 0)
    finally:
        dist.destroy_process_group()
