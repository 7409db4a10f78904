"""Options and fixtures that every test may use."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="device of the op tests: cpu (default) or cuda; cuda tests are skipped without it",
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device under test; a failure that says why where the one that was asked for is not to be
    had."""
    wanted = torch.device(request.config.getoption("--device"))
    if wanted.type == "cuda":
        if not torch.cuda.is_available():
            pytest.fail("--device cuda: this machine has no CUDA device that torch can use", False)
        from fastcam.ops.library import cuda_missing

        if cuda_missing is not None:
            pytest.fail(f"--device cuda: {cuda_missing}", False)
    return wanted


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _needs_a_gpu(request: pytest.FixtureRequest) -> None:
    """A test marked ``cuda`` runs with ``--device cuda`` alone."""
    if request.node.get_closest_marker("cuda") is None:
        return
    if request.getfixturevalue("device").type != "cuda":
        pytest.skip("needs --device cuda")
