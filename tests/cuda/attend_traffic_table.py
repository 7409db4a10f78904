"""Global memory traffic of attend's CUDA kernels, counted by the emulator, as traffic_table.py.

The minimum: forward F + L + outputs; backward F + L + the outputs' gradients + dF + dL.

Of several samples the first is run: all samples of a launch move the same.
"""

from __future__ import annotations

import sys

import torch
from emulation import Emulator
from traffic_table import MEASURED, Measured, count_bytes

from bench.report import replace_between

# Of the attention network: K, C, H = W.
ATTRIBUTES, CHANNELS, SIDE = 40, 128, 14
DTYPES = (torch.float32, torch.bfloat16)
BATCHES = (1, 8, 64)
# pooled, and how many (n, beta)
OUTPUTS = {"Z": (False, 1), "P": (True, 1), "P, 8 curves": (True, 8)}

HEADER = (
    "| N | dtype | output | forward: bytes / minimum | sector efficiency "
    "| backward: bytes / minimum | sector efficiency |\n|---|---|---|---|---|---|---|"
)


def measure(
    batch: int,
    dtype: torch.dtype,
    output: str,
    shape: tuple[int, int, int] = (ATTRIBUTES, CHANNELS, SIDE),
) -> tuple[Measured, ...]:
    """Forward, and backward if there is one (of one curve)."""
    pool, curves = OUTPUTS[output]
    attributes, channels, side = shape

    def some(*sizes: int) -> torch.Tensor:
        t = torch.empty(batch, *sizes, dtype=dtype)  # for all; the first sample gets values
        t[:1] = torch.randn(1, *sizes).to(dtype)
        return t

    features = some(channels, side, side)
    logits = some(attributes, channels, side, side)
    device = Emulator(count=True, watch=False, part=(1, batch))
    out, mask_sum = device.attend_forward(features, logits, [2.0] * curves, [0.1] * curves, pool)
    moved = (features, logits, mask_sum, *out)
    results = [Measured(device.traffic, count_bytes(*moved, samples=1))]
    if curves == 1:
        grad = some(*out.shape[2:])
        grad_l1 = torch.ones(batch, attributes)
        device = Emulator(count=True, watch=False, part=(1, batch))
        grads = device.attend_backward(features, logits, grad, grad_l1, 2.0, 0.1, pool)
        moved = (features, logits, grad, grad_l1, *grads)
        results.append(Measured(device.traffic, count_bytes(*moved, samples=1)))
    return tuple(results)


def row(batch: int, dtype: torch.dtype, output: str, *results: Measured) -> str:
    name = str(dtype).removeprefix("torch.")
    cells = [*map(str, results), *(["| "] if len(results) == 1 else [])]
    return f"| {batch} | {name} | {output} | " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> int:
    lines = [HEADER]
    print(HEADER)
    for dtype in DTYPES:
        for output in OUTPUTS:
            for batch in BATCHES:
                lines.append(row(batch, dtype, output, *measure(batch, dtype, output)))
                print(lines[-1], flush=True)
    if arguments == ["--write"]:
        replace_between(MEASURED, "attend traffic", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
