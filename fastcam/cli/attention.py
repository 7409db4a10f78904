"""The verbs of ``fastcam attention``: analyses of an attention network, and its demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastcam._util.extras import require
from fastcam.cli.options import (
    BatchSize,
    Data,
    Device,
    Epochs,
    Out,
    Rate,
    Seed,
    Split,
    Workers,
    bare_prefix,
)

typer: Any = require("typer", extra="train")

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Analyse an attention network: `fastcam train --model attention` trains one.\n\n"
    "Every analysis writes a figure (PREFIX.png), a table (PREFIX.md) and numbers (PREFIX.json).",
)

Network = Annotated[Path, typer.Argument(help="Checkpoint of an attention network (RUN/model.pt).")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many images.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--pair", help="A transformation as n,β (4,0.5); repeat for several."),
]


def _claimed(context: typer.Context, prefix: Path) -> Path:
    """Keep the place of the files to this run: a wrong one is told before the work, not after."""
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


@app.command()
def attributes(
    checkpoint: Network,
    data: Data,
    out: Prefix = Path("runs/attention/attributes"),
    split: Split = "test",
    limit: Limit = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Accuracy, balanced accuracy and average precision of every attribute (K Table 4).

    Example: `fastcam attention attributes runs/attention/model.pt faces`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import pick_device

    with progress_bars() as report:
        subject = analysis.load_attention(checkpoint)
        faces = analysis.open_faces(
            subject, data, split, limit=limit, workers=workers, progress=report
        )
        result = analysis.attributes(
            subject, faces, batch_size=batch_size, device=pick_device(device), progress=report
        )
    _save(result, out, checkpoint=checkpoint, data=data, split=split, limit=limit)


@app.command()
def ablation(
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the runs, and PREFIX of the files.", callback=_claimed
        ),
    ] = Path("runs/ablation"),
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    size: Annotated[int, typer.Option(help="Input size in pixels.")] = 64,
    fit: Annotated[str, typer.Option(help="crop, face or stretch.")] = "crop",
    epochs: Epochs = 8,
    batch_size: BatchSize = 32,
    lr: Rate = 0.1,
    clip: Annotated[float, typer.Option(help="Cut the gradient's norm down to this.")] = 5.0,
    limit_train: Annotated[
        int | None, typer.Option(help="Only the first so many training images.")
    ] = None,
    limit_valid: Annotated[
        int | None, typer.Option(help="Only the first so many validation images.")
    ] = None,
    split: Split = "test",
    limit: Limit = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Train the network with and without reconstructor and multi-label classifier (K Table 1).

    Four runs for each seed; the same command goes on where it was stopped.

    Example: `fastcam attention ablation faces --fit face --seeds 0,1,2 --limit-train 1000`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.training import TrainConfig, keep_freed_memory

    keep_freed_memory()
    config = TrainConfig(
        data=str(data), model="attention", size=size, fit=fit, epochs=epochs, patience=0,
        batch_size=batch_size, lr=lr, clip=clip, schedule="cosine", limit_train=limit_train,
        limit_valid=limit_valid, device=device, workers=workers,
    )  # fmt: skip
    chosen = _numbers("--seeds", seeds, int)
    with progress_bars() as report:
        result = analysis.ablation(config, out, chosen, split=split, limit=limit, progress=report)
    settings = {k: v for k, v in config.settings().items() if k != "seed"}
    _save(result, out, training=settings, split=split, limit=limit)


@app.command()
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
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Draw the masks that matter most for some attributes (K Fig. 4).

    A channel's importance is the change of the attribute's logit when its mask is set to zero.

    Example: `fastcam attention masks runs/attention/model.pt faces -a Smiling -a Eyeglasses`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import pick_device

    with progress_bars() as report:
        subject = analysis.load_attention(checkpoint)
        faces = analysis.open_faces(
            subject, data, split, limit=limit, workers=workers, progress=report
        )
        result = analysis.top_masks(
            subject, faces, attribute, images=images, shown=shown, top=top, per_image=per_image,
            device=pick_device(device), progress=report,
        )  # fmt: skip
    _save(
        result, out, checkpoint=checkpoint, data=data, attributes=attribute, images=images,
        shown=shown, top=top, per_image=per_image, split=split, limit=limit,
    )  # fmt: skip


@app.command()
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
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Correlations among channels and among attributes over images (K Tables 2 and 3).

    Example: `fastcam attention correlation runs/attention/model.pt faces -a Black_Hair -c 1 -c 32`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import pick_device

    channels = channel or [0, 1, 2]
    with progress_bars() as report:
        subject = analysis.load_attention(checkpoint)
        faces = analysis.open_faces(
            subject, data, split, limit=limit, workers=workers, progress=report
        )
        result = analysis.correlations(
            subject, faces, of=of, channels=channels, attributes=attribute,
            device=pick_device(device), progress=report,
        )  # fmt: skip
    _save(
        result, out, checkpoint=checkpoint, data=data, attributes=attribute, channels=channels,
        split=split, limit=limit,
    )  # fmt: skip


@app.command()
def curves(out: Prefix = Path("runs/attention/curves"), pair: Pairs = None) -> None:
    """Draw the tone curve g(M; n, β) that transforms masks (K Fig. 3); needs no network.

    Example: `fastcam attention curves --pair 1,0 --pair 4,0 --pair 4,0.5`
    """
    from fastcam import analysis

    _save(analysis.tone_curves(*_pairs(pair)), out)


@app.command()
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
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Accuracy against Gaussian noise for many transformations of the masks (K Fig. 5).

    The network is not retrained; all transformations share one pass over the images.

    Example: `fastcam attention robustness runs/attention/model.pt faces --pair 2,0.5 --pair 4,1`
    """
    from fastcam import analysis
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import pick_device

    levels = _numbers("--sigmas", sigmas, float)
    chosen = _pairs(pair)
    with progress_bars() as report:
        subject = analysis.load_attention(checkpoint)
        splits = [
            analysis.open_faces(subject, data, split, limit=limit, workers=workers, progress=report)
            for split in (("test", "valid") if search else ("test",))
        ]
        options: dict[str, Any] = {"pairs": chosen[0]} if chosen else {}
        result = analysis.robustness(
            subject, *splits, sigmas=levels, seed=seed, batch_size=batch_size,
            device=pick_device(device), progress=report, **options,
        )  # fmt: skip
    _save(result, out, checkpoint=checkpoint, data=data, limit=limit, seed=seed)


@app.command()
def demo(
    out: Out = Path("runs/attention-demo"),
    images: Annotated[int | None, typer.Option("--images", "-n", help="Number of faces.")] = None,
    seed: Seed = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier demo left in the folder.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Train an attention network on synthetic faces and run every analysis on it.

    Takes about ten minutes on two cores and writes one page. Finished stages are kept.

    Example: `fastcam attention demo`
    """
    from fastcam._util.progress import progress_bars
    from fastcam.demos.attention import AttentionDemoConfig, clear
    from fastcam.demos.attention import attention_demo as run
    from fastcam.training import keep_freed_memory

    keep_freed_memory()
    options: dict[str, Any] = {} if images is None else {"images": images}
    if fresh:
        clear(out)
    with progress_bars() as report:
        config = AttentionDemoConfig(seed=seed, **options)
        result = run(out, config, workers=workers, progress=report, say=typer.echo)
    _print(result.analyses["robustness"].tables)


def _save(result: Any, prefix: Path, **settings: Any) -> None:
    from fastcam.analysis import save

    plain = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    saved = save(result, prefix, plain)
    _print(saved.tables)
    typer.echo(f"{saved.figure}, and {prefix}.md, {prefix}.json")


def _print(tables: list[Any]) -> None:
    console = require("rich.console", extra="train").Console()
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = 1000
    for table in tables:
        console.print(table.to_rich())


def _pairs(texts: list[str] | None) -> list[list[tuple[float, float]]]:
    """One argument, or none where nothing is given: the library's default then holds."""
    if not texts:
        return []
    pairs = []
    for text in texts:
        numbers = _numbers("--pair", text, float)
        if len(numbers) != 2:
            raise ValueError(f"--pair: expected n,β, got {text!r}")
        pairs.append((numbers[0], numbers[1]))
    return [pairs]


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: expected numbers with commas between, got {text!r}") from None
