"""The verbs that run the demos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastcam.cli.options import DemoWorkers, Fresh, Out, print_tables, typer
from fastcam.cli.settings import Settings, options
from fastcam.demos.settings import AttentionDemoConfig, DemoConfig

OFFERED = ("images", "seed")


@options("settings", DemoConfig, only=OFFERED)
def demo(
    out: Out = Path("runs/demo"),
    fresh: Fresh = False,
    workers: DemoWorkers = 2,
    *,
    settings: Settings,
) -> None:
    """Show the whole path on synthetic faces in about ten minutes on two cores.

    Draws faces, trains an AlexNet that mistakes make-up for lipstick, fine-tunes it toward the
    mouth beside a control, and writes a page with tables and pictures. Finished stages are kept.

    Example: `fastcam demo`
    """
    from fastcam.demos import guidance
    from fastcam.evaluation.verdicts import THRESHOLDS

    result = _run(guidance.demo, guidance.clear, out, DemoConfig(**settings), fresh, workers)
    print_tables(result.table, result.difference_table)
    typer.echo(f"\n{result.verdict}\n\n{THRESHOLDS}")


@options("settings", AttentionDemoConfig, only=OFFERED)
def attention_demo(
    out: Out = Path("runs/attention-demo"),
    fresh: Fresh = False,
    workers: DemoWorkers = 2,
    *,
    settings: Settings,
) -> None:
    """Train an attention network on synthetic faces and run every analysis on it.

    Takes about ten minutes on two cores and writes one page. Finished stages are kept.

    Example: `fastcam attention demo`
    """
    from fastcam.demos import attention

    config = AttentionDemoConfig(**settings)
    result = _run(attention.attention_demo, attention.clear, out, config, fresh, workers)
    print_tables(*result.analyses["robustness"].tables)


def _run(run: Any, clear: Any, out: Path, config: Any, fresh: bool, workers: int) -> Any:
    from fastcam._util.progress import progress_bars
    from fastcam.training import keep_freed_memory

    keep_freed_memory()
    if fresh:
        clear(out)
    with progress_bars() as report:
        return run(out, config, workers=workers, progress=report, say=typer.echo)
