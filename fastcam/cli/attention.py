"""The verbs of ``fastcam attention``: analyses of an attention network (Kimura & Tanaka)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastcam.cli.options import (
    BatchSize,
    Data,
    Limit,
    Seed,
    Split,
    bare_prefix,
    print_tables,
    typer,
)
from fastcam.cli.settings import Settings, options
from fastcam.training.config import FOUND, SCRATCH, TrainConfig, of_network

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Analyse an attention network: `fastcam train --model attention` trains one. Tables "
    "and figures that are named are those of Kimura & Tanaka.\n\n"
    "Every analysis writes a figure (PREFIX.png), a table (PREFIX.md) and numbers (PREFIX.json).",
)

Network = Annotated[Path, typer.Argument(help="Checkpoint of an attention network (RUN/model.pt).")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--pair", help="A transformation as n,β (4,0.5); repeat for several."),
]


def _claimed(context: typer.Context, prefix: Path) -> Path:
    """Lock the files' place for this run, and refuse a wrong one before the work."""
    from fastcam._util.claim import claim
    from fastcam.analysis.saved import check_prefix

    prefix = bare_prefix(prefix, ".png", ".md", ".json")
    context.with_resource(claim(prefix, folder=False))
    check_prefix(prefix)
    return prefix


Prefix = Annotated[
    Path,
    typer.Option("--out", "-o", help="PREFIX of the files to write.", callback=_claimed),
]

MACHINE = options("machine", TrainConfig, only=("device", "cache", "workers"))


@app.command()
@MACHINE
def attributes(
    checkpoint: Network,
    data: Data,
    out: Prefix = Path("runs/attention/attributes"),
    split: Split = "test",
    limit: Limit = None,
    batch_size: BatchSize = 64,
    *,
    machine: Settings,
) -> None:
    """Accuracy, balanced accuracy and average precision of every attribute (Table 4).

    Example: `fastcam attention attributes runs/attention/model.pt faces`
    """
    from fastcam import analysis

    with _opened(checkpoint, data, split, limit=limit, **machine) as (subject, (faces,), where):
        result = analysis.attributes(subject, faces, batch_size=batch_size, **where)
    _save(result, out, checkpoint=checkpoint, data=data, split=split, limit=limit)


@app.command()
@options(
    "settings",
    TrainConfig,
    only=(
        "size", "fit", "epochs", "batch_size", "lr", "clip", "limit_train", "limit_valid",
        "device", "cache", "workers",
    ),
    defaults={**SCRATCH, **of_network("attention")},
    found={"epochs": FOUND["epochs"]},
)  # fmt: skip
def ablation(
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the runs, and PREFIX of the files.", callback=_claimed
        ),
    ] = Path("runs/ablation"),
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    split: Split = "test",
    limit: Limit = None,
    *,
    settings: Settings,
) -> None:
    """Train the network with and without reconstructor and multi-label classifier (Table 1).

    Four runs for each seed; the same command goes on where it was stopped.

    Example: `fastcam attention ablation faces --fit face --seeds 0,1,2 --limit-train 1000`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.training import keep_freed_memory

    keep_freed_memory()
    config = TrainConfig.from_scratch(data, "attention", **settings)
    chosen = _numbers("--seeds", seeds, int)
    with progress_bars() as report:
        result = analysis.ablation(config, out, chosen, split=split, limit=limit, progress=report)
    trained = {k: v for k, v in config.settings().items() if k != "seed"}
    _save(result, out, training=trained, split=split, limit=limit)


@app.command()
@MACHINE
def masks(
    checkpoint: Network,
    data: Data,
    attribute: Annotated[
        list[str], typer.Option("--attribute", "-a", help="Attribute; repeat for several.")
    ],
    out: Prefix = Path("runs/attention/masks"),
    images: Annotated[
        int, typer.Option(help="Importance is a mean over so many images with the attribute.")
    ] = 64,
    shown: Annotated[int, typer.Option(help="Images drawn for each attribute.")] = 2,
    top: Annotated[int, typer.Option(help="Mask channels drawn.")] = 3,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="Choose the channels for each image by itself.")
    ] = False,
    split: Split = "test",
    limit: Limit = None,
    *,
    machine: Settings,
) -> None:
    """Draw the masks that matter most for some attributes (Fig. 4).

    A channel's importance is the change of the attribute's logit when its mask is set to zero.

    Example: `fastcam attention masks runs/attention/model.pt faces -a Smiling -a Eyeglasses`
    """
    from fastcam import analysis

    with _opened(checkpoint, data, split, limit=limit, **machine) as (subject, (faces,), where):
        result = analysis.top_masks(
            subject, faces, attribute, images=images, shown=shown, top=top, per_image=per_image,
            **where,
        )  # fmt: skip
    _save(
        result, out, checkpoint=checkpoint, data=data, attributes=attribute, images=images,
        shown=shown, top=top, per_image=per_image, split=split, limit=limit,
    )  # fmt: skip


@app.command()
@MACHINE
def correlation(
    checkpoint: Network,
    data: Data,
    out: Prefix = Path("runs/attention/correlation"),
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", help="Attribute whose partners are listed; repeat."),
    ] = None,
    channel: Annotated[
        list[int] | None,
        typer.Option("--channel", "-c", help="Channel whose partners are listed; repeat."),
    ] = None,
    of: Annotated[
        str, typer.Option(help="What stands for a channel: attended, masks or features.")
    ] = "attended",
    split: Split = "test",
    limit: Limit = None,
    *,
    machine: Settings,
) -> None:
    """Correlations among channels and among attributes over images (Tables 2 and 3).

    Example: `fastcam attention correlation runs/attention/model.pt faces -a Black_Hair -c 1 -c 32`
    """
    from fastcam import analysis

    channels = channel or [0, 1, 2]
    with _opened(checkpoint, data, split, limit=limit, **machine) as (subject, (faces,), where):
        result = analysis.correlations(
            subject, faces, of=of, channels=channels, attributes=attribute, **where
        )
    _save(
        result, out, checkpoint=checkpoint, data=data, attributes=attribute, channels=channels,
        split=split, limit=limit,
    )  # fmt: skip


@app.command()
def curves(out: Prefix = Path("runs/attention/curves"), pair: Pairs = None) -> None:
    """Draw the tone curve g(M; n, β) that transforms masks (Fig. 3); needs no network.

    Example: `fastcam attention curves --pair 1,0 --pair 4,0 --pair 4,0.5`
    """
    from fastcam import analysis

    _save(analysis.tone_curves(**_pairs(pair)), out)


@app.command()
@MACHINE
def robustness(
    checkpoint: Network,
    data: Data,
    out: Prefix = Path("runs/attention/robustness"),
    pair: Pairs = None,
    sigmas: Annotated[
        str, typer.Option(help="Noise levels on images in [0, 1], with commas between.")
    ] = "0,0.1,0.2,0.3,0.4,0.5",
    search: Annotated[
        bool, typer.Option(help="Pick n,β on validation images and judge it on test images.")
    ] = True,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    *,
    machine: Settings,
) -> None:
    """Accuracy against Gaussian noise for many transformations of the masks (Fig. 5).

    The network is not retrained; all transformations share one pass over the images.

    Example: `fastcam attention robustness runs/attention/model.pt faces --pair 2,0.5 --pair 4,1`
    """
    from fastcam import analysis

    levels = _numbers("--sigmas", sigmas, float)
    chosen = _pairs(pair)
    splits = ("test", "valid") if search else ("test",)
    with _opened(checkpoint, data, *splits, limit=limit, **machine) as (subject, faces, where):
        result = analysis.robustness(
            subject, *faces, sigmas=levels, seed=seed, batch_size=batch_size, **(chosen | where)
        )
    _save(result, out, checkpoint=checkpoint, data=data, limit=limit, seed=seed)


@contextmanager
def _opened(
    checkpoint: Path, data: Path, *splits: str, limit: int | None, device: str, **reading: Any
) -> Iterator[tuple[Any, list[Any], dict[str, Any]]]:
    """The network, the images of each split, and where to work, under progress bars."""
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import pick_device

    with progress_bars() as report:
        subject = analysis.load_attention(checkpoint)
        faces = [
            analysis.open_faces(subject, data, split, limit=limit, progress=report, **reading)
            for split in splits
        ]
        yield subject, faces, {"device": pick_device(device), "progress": report}


def _save(result: Any, prefix: Path, **settings: Any) -> None:
    from fastcam.analysis import save

    plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    saved = save(result, prefix, plain)
    print_tables(*saved.tables)
    typer.echo(f"{saved.figure}, and {prefix}.md, {prefix}.json")


def _pairs(texts: list[str] | None) -> dict[str, Any]:
    """The argument ``pairs``; nothing where none are given: the library's default then holds."""
    pairs = [_numbers("--pair", text, float) for text in texts or []]
    for pair, text in zip(pairs, texts or [], strict=True):
        if len(pair) != 2:
            raise ValueError(f"--pair: expected n,β, got {text!r}")
    return {"pairs": [tuple(pair) for pair in pairs]} if pairs else {}


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: expected numbers with commas between, got {text!r}") from None
