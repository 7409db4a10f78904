"""``cam_iou_loss`` on the CPU, forward and backward, against the eager reference."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from bench.cases import NETWORKS, Case
from bench.report import machine, markdown, write
from bench.timing import interleaved
from fastcam import functional, reference

CASES = (
    *(Case("alexnet", batch) for batch in (1, 8, 64, 256)),
    Case("alexnet", 64, targets=8),
    Case("alexnet", 64, channels_last=True),
    Case("alexnet", 64, dtype=torch.bfloat16),
    *(Case(network, 32) for network in NETWORKS if network != "alexnet"),
)


def check(case: Case) -> None:
    """Both compute the same, or nothing is timed."""
    got = case.step(functional.cam_iou_loss)()
    wanted = case.step(reference.cam_iou_loss)()
    loose = 2e-2 if case.dtype == torch.bfloat16 else 1e-4
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=loose, atol=loose * scale)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    results, rows = [], []
    for case in CASES:
        check(case)
        times = interleaved(
            {
                "fused": case.step(functional.cam_iou_loss),
                "eager": case.step(reference.cam_iou_loss),
            },
            seconds=options.seconds,
        )
        fused, eager = times["fused"], times["eager"]
        ratio = eager.median / fused.median
        results.append(
            {"case": case.name, "ratio": ratio} | {k: asdict(t) for k, t in times.items()}
        )
        rows.append(
            [
                case.name,
                *(
                    f"{1e3 * t.median:.3g} ({1e3 * t.p20:.3g} to {1e3 * t.p80:.3g})"
                    for t in (fused, eager)
                ),
                f"{ratio:.2f}",
            ]
        )
        print(f"{case.name:<48} {ratio:5.2f}x", flush=True)
    columns = (
        "case",
        "fused, ms (p20 to p80)",
        "eager reference, ms (p20 to p80)",
        "ratio of medians",
    )
    table = markdown(columns, rows)
    print("\n" + table)
    write(options.out, "cpu", machine(), results, table)
    print(f"written to {options.out}/cpu.json and cpu.md")
    return 0
