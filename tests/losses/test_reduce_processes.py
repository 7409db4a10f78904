"""Every loss over several processes is the loss of one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ddp_losses import CASES, REDUCTIONS, batch, gradients, loss_of, run
from process_group import SHARES, found_by_all, network
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam import Balance, ContrastCamLoss, EnergyCamLoss, InputGradientLoss
from fastcam.losses.reduce import Reducer, Reduction

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
ENERGY = ("energy", "closed", "full")
WITH_A_GROUP = (EnergyCamLoss, ContrastCamLoss, InputGradientLoss, Balance)


@pytest.fixture(scope="module", params=SHARES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return found_by_all(run, request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_those_of_one_process(ranks: list[Any], reduction: Reduction) -> None:
    for case in CASES:
        loss, wanted = gradients(network(), case, batch(), reduction=reduction)
        assert any(gradient.any() for gradient in wanted), case
        mean = sum(found[case, reduction][0] for found in ranks) / len(ranks)
        torch.testing.assert_close(mean, loss, msg=f"{case}")
        for found in ranks:
            torch.testing.assert_close(found[case, reduction][1], wanted, msg=f"{case}")


def test_means_of_each_process_differ_where_their_pairs_do(ranks: list[Any]) -> None:
    _, wanted = gradients(network(), ENERGY, batch())
    got = ranks[0]["local"][1]
    assert not torch.allclose(got[0], wanted[0], rtol=0.01)
    # The mean over processes of each one's own mean.
    parts = [
        {k: t.split(SHARES[len(ranks)])[rank] for k, t in batch().items()}
        for rank in range(len(ranks))
    ]
    each = [gradients(network(), ENERGY, part)[1] for part in parts]
    for at, grad in enumerate(got):
        torch.testing.assert_close(grad, sum(grads[at] for grads in each) / len(ranks))


def test_a_normalizer_is_that_of_all_processes(ranks: list[Any]) -> None:
    _, wanted = gradients(network(), ENERGY, batch(), normalizer=10)
    torch.testing.assert_close(ranks[-1]["normalizer"][1], wanted)


def test_pairs_are_those_of_each_process(ranks: list[Any]) -> None:
    for case in CASES:
        pairs = torch.cat([found["none"][case] for found in ranks])
        wanted = loss_of(network(), case, batch(), reduction="none")
        torch.testing.assert_close(pairs, wanted, msg=f"{case}")


def test_one_process_may_validate(ranks: list[Any]) -> None:
    part = {k: t.split(SHARES[len(ranks)])[0] for k, t in batch().items()}
    torch.testing.assert_close(ranks[0]["alone"], loss_of(network().eval(), ENERGY, part))


def test_a_group_of_other_processes_is_refused(ranks: list[Any]) -> None:
    """torch says of its size that it is -1, which turned the loss's sign."""
    assert "stranger" not in ranks[0]
    for rank, found in enumerate(ranks[1:], 1):
        assert f"a group that this process (rank {rank}) is in" in found["stranger"]


@pytest.mark.parametrize("case", CASES)
def test_an_accumulated_step_is_that_of_the_whole_batch(case: tuple[str, str, str]) -> None:
    whole, net = batch(), network()
    _, wanted = gradients(network(), case, whole)
    count = int(whole["where"].sum())
    for start in (0, 2, 4):
        part = {k: t[start : start + 2] for k, t in whole.items()}
        loss_of(net, case, part, normalizer=count).backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], wanted)


@pytest.mark.parametrize(
    ("normalizer", "options", "message"),
    [
        (0, {}, "normalizer: expected above 0 and finite, got 0"),
        (float("nan"), {}, "normalizer: expected above 0 and finite, got nan"),
        (torch.tensor(0), {}, "normalizer: expected above 0 and finite, got 0"),
        (torch.tensor(-1.5), {}, "normalizer: expected above 0 and finite, got -1.5"),
        (torch.tensor(torch.inf), {}, "normalizer: expected above 0 and finite, got inf"),
        (torch.ones(2), {}, r"normalizer: expected a number or a scalar tensor .* shape \[2\]"),
        ("3", {}, "normalizer: expected a number or a scalar tensor, got str"),
        (True, {}, "normalizer: expected a number or a scalar tensor, got bool"),
        (3, {"reduction": "sum"}, "normalizer: expected None beside reduction='sum'"),
    ],
)  # fmt: skip
def test_a_normalizer_that_cannot_be_is_named(
    normalizer: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        loss_of(network(), ENERGY, batch(), normalizer=normalizer, **options)


def test_a_normalizer_without_a_value_is_not_looked_at() -> None:
    checked = Reducer("mean", "global", None).checked
    there_is_none = torch.tensor(0, device="meta")
    assert checked(there_is_none) is there_is_none
    with FakeTensorMode():
        fake = torch.zeros(())
        assert checked(fake) is fake
    zeros = torch.zeros(2)
    assert torch.vmap(lambda n: 1 / checked(n))(zeros).isinf().all()
    compiled = torch.compile(lambda n: 1 / checked(n), backend="eager", fullgraph=True)
    assert compiled(zeros[0]).isinf()
    traced = torch.jit.trace(lambda n: 1 / checked(n), (zeros[0],), check_trace=False)
    assert traced(torch.tensor(2.0)) == 0.5


def test_an_unknown_sync_is_named() -> None:
    for loss in (EnergyCamLoss, InputGradientLoss):
        with pytest.raises(ValueError, match="sync: expected one of .*'global'.* got 'world'"):
            loss(sync="world")


@pytest.mark.parametrize("kind", WITH_A_GROUP)
def test_copies_share_the_group_which_no_file_can_hold(tmp_path: Path, kind: Any) -> None:
    """As those of an average of the weights are (torch cannot copy a group)."""
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        group = dist.new_group([0])
        criterion = kind(process_group=group)
        for same in (copy.deepcopy(torch.nn.ModuleList([criterion]))[0], copy.copy(criterion)):
            assert same is not criterion
            assert same.process_group is group
            same.process_group = None
            assert criterion.process_group is group
        with pytest.raises(TypeError, match="process_group: a group of processes cannot be pickle"):
            pickle.dumps(criterion)
        criterion.process_group = None
        assert pickle.loads(pickle.dumps(criterion)).process_group is None
    finally:
        dist.destroy_process_group()
