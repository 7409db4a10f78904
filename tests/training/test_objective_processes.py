"""Label losses and guided steps over several processes are those of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from label_worker import CASES, Step, batch, run, steps
from process_group import SHARES, found_by_all

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


@pytest.fixture(scope="module", params=SHARES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return found_by_all(run, request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_one_process(ranks: list[Any], case: str) -> None:
    wanted = steps(Step(case), batch(case))
    assert any(grad.any() for grad in wanted["grads"])
    mean = sum(found[case]["losses"] for found in ranks) / len(ranks)
    torch.testing.assert_close(mean, wanted["losses"])
    if case == "attention":
        assert wanted["parts"].keys() == {"binary", "multilabel", "reconstruction", "l1"}
    for name, part in wanted["parts"].items():
        mean = sum(found[case]["parts"][name] for found in ranks) / len(ranks)
        torch.testing.assert_close(mean, part, msg=name)
    for found in ranks:
        torch.testing.assert_close(found[case]["grads"], wanted["grads"])


def test_one_process_may_validate_alone(ranks: list[Any]) -> None:
    step = Step("guided").eval()
    torch.testing.assert_close(ranks[0]["alone"], step(*(t[:2] for t in batch("guided")))[0])
