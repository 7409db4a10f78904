"""The kernels move hardly more than they must, in whole sectors (`pytest -s` prints the table)."""

from __future__ import annotations

import pytest
import torch
from emulation import compiler
from traffic_table import BATCHES, DTYPES, HEADER, LAYOUTS, MEASURED, NETWORKS, measure, row

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

MOST_BYTES = 1.05
MOST_BYTES_OF_SEVERAL = (
    1.25  # backward, targets > 1: more blocks read the maps, mostly from a cache
)
# Rows of odd lengths begin anywhere in a sector, whose rest the warp's next access or a neighbour
# finds in the first-level cache.
LEAST_EFFICIENCY = {"contiguous": 0.5, "channels_last": 0.9}


@pytest.fixture(scope="module", autouse=True)
def _table() -> None:
    print(f"\n{HEADER}")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_traffic(network, dtype, layout, batch):
    results = measure(network, batch, dtype, layout)
    text = row(network, batch, dtype, layout, *results)
    print(text)
    assert text in MEASURED.read_text(), (
        "the table is old: python tests/cuda/traffic_table.py --write"
    )
    for result in results:
        assert 0.999 < result.ratio <= MOST_BYTES
        assert result.traffic.sector_efficiency >= LEAST_EFFICIENCY[layout]
        assert result.traffic.launches == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_four_targets_share_one_read_of_the_activations(layout):
    forward, backward = measure("AlexNet", 8, torch.float32, layout, targets=4)
    assert forward.ratio <= MOST_BYTES
    assert backward.ratio <= MOST_BYTES_OF_SEVERAL
