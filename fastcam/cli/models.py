"""The verbs that show networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastcam.cli.options import print_tables, typer

# Of a model that is named in place of a checkpoint: the number of scores changes no layer.
_ATTRIBUTES = 40


def layers(
    model: Annotated[
        str, typer.Argument(help="Checkpoint (model.pt), or a model's name, such as alexnet.")
    ],
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images in pixels; as the checkpoint was trained, or 128.", min=1
        ),
    ] = None,
) -> None:
    """List the layers whose Grad-CAM can be guided, and how much of an image a cell of each sees.

    Example: `fastcam layers alexnet --size 128`
    """
    from fastcam.models import build, layer_table, load_checkpoint, model_names, model_spec
    from fastcam.models.checkpoint import Preprocessing
    from fastcam.report import Table

    if model in model_names():
        network, spec = build(model, _ATTRIBUTES).eval(), model_spec(model)
        side = size or Preprocessing().size
    elif Path(model).exists() or Path(model).suffix or "/" in model:
        checkpoint = load_checkpoint(model)
        network, spec = checkpoint.model, checkpoint.spec
        side = size or checkpoint.preprocessing.size
    else:
        raise ValueError(
            f"{model!r} is no file, and no model's name; known: {', '.join(model_names())}"
        )
    rows = [
        [
            layer.name + (" (default)" if layer.default else ""),
            layer.kind,
            str(layer.channels),
            _size(layer.grid),
            "grows with the image" if layer.field is None else _size(layer.field),
            f"{max(layer.seen) / side:.0%}",
        ]
        for layer in layer_table(network, spec, side)
    ]
    header = ["layer", "kind", "channels", "cells", "a cell sees, pixels", "of the side"]
    title = f"Layers of {model} for images of {side}x{side} pixels"
    print_tables(Table(header, rows, title))


def _size(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
