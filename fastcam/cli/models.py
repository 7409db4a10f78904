"""The verbs that show networks."""

from __future__ import annotations

from typing import Annotated

from fastcam.cli.options import print_tables, typer

# Of a model that is named in place of a checkpoint: the number of scores changes no layer.
_ATTRIBUTES = 40


def layers(
    model: Annotated[
        str,
        typer.Argument(help="Checkpoint (model.pt), or a network's name: alexnet, timm:resnet18."),
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
    from fastcam.models import build, layer_table, load_checkpoint, spec_of
    from fastcam.models.checkpoint import WEIGHTS_ALONE, Preprocessing
    from fastcam.models.registry import is_model_name, options_for
    from fastcam.models.weights import is_file_name
    from fastcam.report import Table

    if not is_model_name(model) and is_file_name(model):
        try:
            checkpoint = load_checkpoint(model)
        except ValueError as error:  # the layers are the same with any weights
            said = str(error).removesuffix(WEIGHTS_ALONE)
            name = "" if said == str(error) else ", or the name of the network in place of the file"
            raise ValueError(f"{said}{name}") from None
        network, spec = checkpoint.model, checkpoint.spec
        side = size or checkpoint.preprocessing.size
    else:
        side = size or Preprocessing().size
        network = build(model, _ATTRIBUTES, options_for(model, None, side)).eval()
        spec = spec_of(network, model)
    rows = [
        [
            layer.name + (" (default)" if layer.default else ""),
            layer.kind,
            str(layer.channels),
            _size(layer.grid),
            "grows with the image" if layer.field is None else _size(layer.field),
            f"{max(layer.seen) / side:.0%}",
            layer.reshape or "",
        ]
        for layer in layer_table(network, spec, side)
    ]
    header = ["layer", "kind", "channels", "cells", "a cell sees, pixels", "of the side", "reshape"]
    title = f"Layers of {model} for images of {side}x{side} pixels"
    print_tables(Table(header, rows, title))


def _size(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
