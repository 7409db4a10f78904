"""Attend's kernels move hardly more than they must, in whole sectors."""

from __future__ import annotations

import pytest
from attend_traffic_table import BATCHES, DTYPES, HEADER, MEASURED, OUTPUTS, measure, row
from emulation import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

MOST_BYTES = 1.05
LEAST_EFFICIENCY = 0.88


@pytest.fixture(scope="module", autouse=True)
def _table() -> None:
    print(f"\n{HEADER}")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attend_traffic(dtype, output, batch):
    results = measure(batch, dtype, output)
    text = row(batch, dtype, output, *results)
    print(text)
    assert text in MEASURED.read_text(), (
        "the table is old: python tests/cuda/attend_traffic_table.py --write"
    )
    for result in results:
        assert 0.999 < result.ratio <= MOST_BYTES
        assert result.traffic.sector_efficiency >= LEAST_EFFICIENCY
        assert result.traffic.launches == 1


@pytest.mark.parametrize("side", (7, 13))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("output", ("Z", "P"))
def test_odd_maps_are_read_in_whole_sectors_too(output, dtype, side):
    for result in measure(8, dtype, output, (10, 32, side)):
        # Backward, few rows: four warps of a block share ten attributes and all read the features.
        assert result.ratio <= 1.16
        assert result.traffic.sector_efficiency >= 0.65
