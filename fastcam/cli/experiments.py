"""The verb that runs the papers' experiments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastcam.cli.options import DemoWorkers, Out, print_tables, typer
from fastcam.cli.settings import Settings, options
from fastcam.experiments.settings import CATALOGUE, ExperimentConfig

LIST = "list"


@options("settings", ExperimentConfig, without=("data", "splits", "brief"))
def experiment(
    name: Annotated[
        str, typer.Argument(help=f"{', '.join(CATALOGUE)}; or `{LIST}`, which says what each is.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images with labels; without it faces are drawn."),
    ] = None,
    out: Out = Path("runs/experiments"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="One pair, one seed, few small images, where no option says otherwise: minutes,"
            " and rough.",
        ),
    ] = False,
    workers: DemoWorkers = 2,
    jobs: Annotated[
        int,
        typer.Option(help="Fine-tunings beside each other; on a CPU one a core is fastest."),
    ] = 1,
    *,
    context: typer.Context,
    settings: Settings,
) -> None:
    """Run an experiment of the papers, with controls, and write its tables and figure.

    Networks are trained once for all experiments in a folder; a stopped run goes on.

    Example: `fastcam experiment table1 --quick`
    """
    if name == LIST:
        print_tables(_catalogue())
        return
    from fastcam._util.progress import progress_bars
    from fastcam.experiments import run
    from fastcam.training import keep_freed_memory

    config = ExperimentConfig(data=None if data is None else str(data), **settings)
    if quick:
        config = replace(config.quick(), **_given(context, settings))
    keep_freed_memory()
    with progress_bars() as report:
        saved = run(name, out, config, workers=workers, jobs=jobs, progress=report, say=typer.echo)
    print_tables(*saved.tables)


def _given(context: Any, settings: Settings) -> Settings:
    """The options that the command line names."""
    sources = {name: context.get_parameter_source(name) for name in settings}
    return {k: v for k, v in settings.items() if sources[k] and sources[k].name == "COMMANDLINE"}


def _catalogue() -> object:
    from fastcam.report import Table
    from fastcam.report.numbers import MISSING

    rows = [[name, e.title, e.shows, e.takes or MISSING] for name, e in CATALOGUE.items()]
    return Table(
        ["experiment", "what it is", "what it shows", "minutes on two cores, --jobs 2"], rows
    )
