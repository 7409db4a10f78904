"""The verb that runs the studio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastcam.cli.options import typer
from fastcam.cli.settings import Settings, options
from fastcam.studio.settings import StartConfig, StudioConfig


@options("first", StartConfig, only=("images", "epochs"))
@options("settings", StudioConfig)
def studio(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Your images, as `fastcam train` reads them; several may be named."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Your network (RUN/model.pt), trained on such images; one for each."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The studio's folder: all that it makes is in it.")
    ] = Path("runs/studio"),
    show: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    *,
    first: Settings,
    settings: Settings,
) -> None:
    """Point at where a network should look, in a browser.

    Without arguments it draws faces and trains a small network on them when it is first run.

    Example: `fastcam studio`, or `fastcam studio --data birds --checkpoint runs/birds/model.pt`
    """
    from fastcam.studio.app import serve

    serve(
        out, StudioConfig(**settings), StartConfig(**first), data=data or (),
        checkpoint=checkpoint or (), show=show, say=typer.echo,
    )  # fmt: skip
