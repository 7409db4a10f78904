"""The command line: every verb is one call into the library.

Commands import what they need when they run, so that ``fastcam --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from fastcam._defaults import CLIP, FINETUNE
from fastcam._util.extras import require
from fastcam._util.files import describe
from fastcam._util.interrupt import INTERRUPTED
from fastcam.cli import attention as _cli_attention
from fastcam.cli.options import (
    REGION_HELP,
    Attribute,
    Augment,
    BatchSize,
    Clip,
    Data,
    Decay,
    Device,
    Epochs,
    Landmarks,
    LimitTrain,
    LimitValid,
    ModelOption,
    Momentum,
    Out,
    Patience,
    Precision,
    Rate,
    Schedule,
    Seed,
    Split,
    Start,
    Threshold,
    Workers,
    bare_prefix,
)

typer: Any = require("typer", extra="train")

app = typer.Typer(
    name="fastcam",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Direct what an image classifier looks at: fine-tune it so that its Grad-CAM lies in the "
    "face region that you name.\n\nStart with `fastcam demo`; every command explains itself with "
    "`--help`.",
)
app.add_typer(_cli_attention.app, name="attention")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from fastcam import __version__

        typer.echo(f"fastcam {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def info() -> None:
    """Show what was built and what is loaded (native kernels, CUDA, torch)."""
    import json

    from fastcam import build_info

    typer.echo(json.dumps(build_info(), indent=2, default=str))


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    images: Annotated[int, typer.Option("--images", "-n", help="Number of faces.")] = 4000,
    cooccurrence: Annotated[
        list[str] | None,
        typer.Option(
            help="A:B=p makes attribute B agree with A with probability p (0.5: independent). "
            "May be repeated."
        ),
    ] = None,
    splits: Annotated[
        tuple[float, float, float],
        typer.Option(help="Shares of training, validation and test images."),
    ] = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
) -> None:
    """Draw synthetic faces with attributes and true landmarks, in CelebA's layout.

    A stopped run goes on where it stopped.

    Example: `fastcam synth faces -n 4000 --cooccurrence Wearing_Lipstick:Heavy_Makeup=0.95`
    """
    from fastcam.faces import generate

    pairs = dict(_cooccurrence(text) for text in cooccurrence or [])
    path = generate(out, images, seed=seed, cooccurrence=pairs, splits=splits, workers=workers)
    typer.echo(f"{images} faces in {path}")


@app.command()
def landmarks(
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table to write [DATA/landmarks68.npz].")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="dlib's 68-point model, where it is not found by itself.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
) -> None:
    """Find the 68 landmarks of every image once, with dlib, so that training never has to.

    Faces that dlib misses get the template's landmarks and are counted. A stopped run goes on
    where it stopped. Needs the extra `landmarks`.

    Example: `fastcam landmarks celeba`
    """
    from fastcam._util.claim import claim
    from fastcam.data import ImageSource
    from fastcam.data.landmarks import LANDMARK_TABLE
    from fastcam.regions.detect import detect_landmarks

    target, source = out or data / LANDMARK_TABLE, ImageSource(data)
    with claim(target, folder=False):
        detect_landmarks(source, target, predictor=predictor, workers=workers)


@app.command()
def train(
    data: Data,
    out: Out = Path("runs/train"),
    attributes: Annotated[
        str | None,
        typer.Option(help="Names to learn, with commas between; all of the data's by default."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name of the network: alexnet, resnet18 or attention.")
    ] = "alexnet",
    model_option: ModelOption = None,
    no_multilabel: Annotated[
        bool, typer.Option("--no-multilabel", help="attention: without multi-label classifier.")
    ] = False,
    no_reconstructor: Annotated[
        bool, typer.Option("--no-reconstructor", help="attention: without reconstructor.")
    ] = False,
    size: Annotated[int, typer.Option(help="Input size in pixels (224 is AlexNet's own).")] = 224,
    fit: Annotated[
        str, typer.Option(help="crop (centre square), face (closer) or stretch.")
    ] = "crop",
    epochs: Epochs = 30,
    patience: Patience = 3,
    batch_size: BatchSize = 256,
    lr: Rate = 0.01,
    momentum: Momentum = 0.9,
    weight_decay: Decay = 0.0,
    schedule: Schedule = "constant",
    clip: Clip = CLIP,
    augment: Augment = "flip",
    precision: Precision = "float32",
    landmarks: Landmarks = None,
    limit_train: LimitTrain = None,
    limit_valid: LimitValid = None,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Train a classifier of all or some attributes from scratch, with early stopping.

    A killed run goes on where it last saved when the same command is given again.

    Example: `fastcam train faces -o runs/train --size 128`

    The attention network is trained with its own loss, a sum over attributes, and takes other
    settings: `fastcam train faces -o runs/attention --model attention --size 64 --batch-size 32
    --lr 0.1 --clip 5 --schedule cosine --epochs 8`
    """
    from fastcam.training import TrainConfig

    _run(
        TrainConfig(
            data=str(data), attributes=_names(attributes), model=model,
            model_options=_model_options(
                model_option, multilabel=no_multilabel, reconstructor=no_reconstructor
            ),
            size=size, fit=fit, epochs=epochs, patience=patience, batch_size=batch_size, lr=lr,
            momentum=momentum, weight_decay=weight_decay, schedule=schedule, clip=clip,
            augment=augment, precision=precision, landmarks=_text(landmarks),
            limit_train=limit_train, limit_valid=limit_valid, seed=seed, device=device,
            workers=workers,
        ),
        out,
    )  # fmt: skip


@app.command()
def finetune(
    checkpoint: Start,
    data: Data,
    attribute: Annotated[
        list[str],
        typer.Option("--attribute", "-a", help="Attribute to guide; repeat for several."),
    ],
    region: Annotated[
        list[str],
        typer.Option(
            "--region", "-r", help=f"Where to look, one for each attribute. {REGION_HELP}"
        ),
    ],
    out: Out = Path("runs/finetune"),
    pull: Annotated[
        float | None,
        typer.Option(
            help="How hard guidance draws, relative to the labels; 0 makes a control, above 2 "
            "accuracy is at risk.",
            show_default="1",
        ),
    ] = None,
    w_g: Annotated[
        float | None,
        typer.Option(
            "--w-g",
            help="A fixed weight of the Grad-CAM IoU loss in place of --pull, as in the paper. "
            "None is safe for every network.",
            show_default=False,
        ),
    ] = None,
    w_a: Annotated[float, typer.Option("--w-a", help="Weight of the attribute loss.")] = 1.0,
    guide: Annotated[
        str,
        typer.Option(
            help="positives (images that have the attribute), all, or true_class (all, by the map "
            "of the true answer)."
        ),
    ] = "positives",
    region_weight: Annotated[
        float, typer.Option(help="Cells of the region weigh so much, others 1.")
    ] = 3.0,
    threshold: Threshold = 0.5,
    sharpness: Annotated[
        float, typer.Option(help="How sharply cells are told apart at the threshold (1: linear).")
    ] = 8.0,
    sharpness_warmup: Annotated[
        bool,
        typer.Option(
            "--sharpness-warmup/--no-sharpness-warmup",
            help="Raise the sharpness from 1 over the run: helps where maps start dead.",
        ),
    ] = True,
    max_pair_pull: Annotated[
        float | None,
        typer.Option(help="Cut the gradient of a single image's map down to this.", min=0),
    ] = None,
    binarize: Annotated[str, typer.Option(help="tone, sigmoid or hard.")] = "tone",
    weight_grad: Annotated[
        str, typer.Option(help="full, or detach (channel weights held constant).")
    ] = "full",
    head: Annotated[
        str, typer.Option(help="auto, closed, autograd or mean_dropout (cheaper, approximate).")
    ] = "auto",
    epochs: Epochs = FINETUNE["epochs"],
    patience: Patience = FINETUNE["patience"],
    batch_size: BatchSize = FINETUNE["batch_size"],
    lr: Rate = FINETUNE["lr"],
    momentum: Momentum = 0.9,
    weight_decay: Decay = 0.0,
    schedule: Schedule = FINETUNE["schedule"],
    clip: Clip = FINETUNE["clip"],
    augment: Augment = "flip",
    precision: Precision = "float32",
    landmarks: Landmarks = None,
    limit_train: LimitTrain = None,
    limit_valid: LimitValid = None,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Fine-tune a classifier so that it looks at a region when it judges an attribute.

    A fair comparison needs a control: the same command with `--pull 0` and another `--out`.

    Example: `fastcam finetune runs/train/model.pt faces -a Wearing_Lipstick -r mouth -o runs/mouth`
    """
    from fastcam.training import GuidanceConfig, TrainConfig

    if len(attribute) != len(region):
        raise ValueError(
            f"give one --region for each --attribute; got {len(attribute)} and {len(region)}"
        )
    guidance = GuidanceConfig(
        targets=tuple(zip(attribute, region, strict=True)), pull=pull, w_g=w_g, guide=guide,
        region_weight=region_weight, threshold=threshold, sharpness=sharpness,
        binarize=binarize, weight_grad=weight_grad, head=head, sharpness_warmup=sharpness_warmup,
        max_pair_pull=max_pair_pull,
    )  # fmt: skip
    _run(
        TrainConfig(
            data=str(data), start=str(checkpoint), epochs=epochs, patience=patience,
            batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay,
            schedule=schedule, clip=clip, w_a=w_a, augment=augment, precision=precision,
            landmarks=_text(landmarks), limit_train=limit_train, limit_valid=limit_valid,
            guidance=guidance, seed=seed, device=device, workers=workers,
        ),
        out,
    )  # fmt: skip


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Checkpoints to compare, then the data folder.")
    ],
    attribute: Attribute,
    other: Annotated[
        str | None,
        typer.Option("--other", "-b", help="Attribute that E1 (with) and E2 (without) differ in."),
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help=f"Where to look. {REGION_HELP}")
    ] = None,
    split: Split = "test",
    threshold: Threshold = 0.5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write PREFIX.json and PREFIX.md.")
    ] = None,
    landmarks: Landmarks = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Measure accuracy, also where two attributes part, and where the Grad-CAM lies.

    Example: `fastcam evaluate runs/train/model.pt runs/mouth/model.pt faces -a Wearing_Lipstick
    -b Heavy_Makeup -r mouth`
    """
    from fastcam._util.claim import claim
    from fastcam._util.progress import progress_bars
    from fastcam.evaluation import compare

    if len(checkpoints) < 2:
        raise ValueError("name at least one checkpoint, then the data folder")
    *models, data = checkpoints
    if data.is_file():
        folders = [str(p) for p in models if p.is_dir()]
        found = f" ({', '.join(folders)} is one)" if folders else ""
        raise ValueError(
            f"{data} is a file; the data folder comes last, after the checkpoints{found}"
        )
    out = out and bare_prefix(out, ".json", ".md")
    with progress_bars() as report, claim(out, folder=False) if out else nullcontext():
        table = compare(
            models, data, attribute=attribute, other=other, region=region, split=split,
            threshold=threshold, landmarks=landmarks, limit=limit, batch_size=batch_size,
            device=device, workers=workers, out=out, progress=report,
        )  # fmt: skip
    _print(table.to_rich())


@app.command()
def explain(
    checkpoint: Start,
    images: Annotated[list[Path], typer.Argument(help="Image files of aligned faces.")],
    attribute: Attribute,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help=f"Outlined in blue. {REGION_HELP}")
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="A further checkpoint to show; repeat.")
    ] = None,
    detect: Annotated[
        bool,
        typer.Option("--detect", help="Find each face's landmarks with dlib (else: the template)."),
    ] = False,
    threshold: Threshold = 0.5,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .png, .jpg, .svg or .pdf.")
    ] = Path("explanation.png"),
) -> None:
    """Draw where a classifier looks in some images.

    Example: `fastcam explain runs/train/model.pt faces/img_align_celeba/000001.jpg
    -a Wearing_Lipstick -r mouth --beside runs/mouth/model.pt`
    """
    from fastcam._util.claim import claim
    from fastcam._util.progress import labelled, progress_bars
    from fastcam.evaluation.explain import explain_files

    with progress_bars() as report, claim(out, folder=False):
        path = explain_files(
            [checkpoint, *(beside or [])], images, attribute, out, region=region, detect=detect,
            threshold=threshold, progress=labelled(report, "explaining images"),
        )  # fmt: skip
    typer.echo(f"{len(images)} image(s) explained in {path}")


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    images: Annotated[int | None, typer.Option("--images", "-n", help="Number of faces.")] = None,
    seed: Seed = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier demo left in the folder.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Show the whole path on synthetic faces in about ten minutes on two cores.

    Draws faces, trains an AlexNet that mistakes make-up for lipstick, fine-tunes it toward the
    mouth beside a control, and writes a page with tables and pictures. Finished stages are kept.

    Example: `fastcam demo`
    """
    from fastcam._util.progress import progress_bars
    from fastcam.demos.guidance import DemoConfig, clear
    from fastcam.demos.guidance import demo as run
    from fastcam.training import keep_freed_memory

    keep_freed_memory()
    config = DemoConfig(seed=seed) if images is None else DemoConfig(images=images, seed=seed)
    if fresh:
        clear(out)
    with progress_bars() as report:
        result = run(out, config, workers=workers, progress=report, say=typer.echo)
    _print(result.table.to_rich())
    _print(result.difference_table.to_rich())


def _run(config: Any, out: Path) -> None:
    from fastcam._util.progress import progress_bars
    from fastcam.training import keep_freed_memory, summary
    from fastcam.training import train as run

    keep_freed_memory()
    with progress_bars() as report:
        result = run(config, out, progress=report)
    sources = ", ".join(f"{n} {source}" for source, n in result.landmark_sources.items())
    typer.echo(f"landmarks of the training images: {sources}")
    kept = " (finished earlier, kept)" if result.kept else ""
    typer.echo(
        f"{result.checkpoint} after {result.epochs} epoch(s){kept}; steps in {result.history}"
    )
    if config.guidance is not None and result.before is not None:
        typer.echo(summary(config.guidance, result.before, result.after))


def _print(renderable: Any) -> None:
    require("rich.console", extra="train").Console().print(renderable)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _model_options(given: list[str] | None, **without: bool) -> dict[str, Any]:
    """Options from ``name=value`` texts; the parts of ``without`` that are True are left out."""
    import json

    options = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        try:
            options[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            if not equals or not value:
                raise ValueError(f"--model-option: expected name=value, got {text!r}") from None
            options[name.strip()] = value  # a word needs no quotes
    return options | {name: False for name, left_out in without.items() if left_out}


def _cooccurrence(text: str) -> tuple[tuple[str, str], float]:
    try:
        pair, p = text.split("=")
        a, b = pair.split(":")
        return (a, b), float(p)
    except ValueError:
        raise ValueError(f"--cooccurrence: expected A:B=p, got {text!r}") from None


def _one_line(text: str) -> str:
    """One line without control characters, which file names may hold."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"fastcam: note: {_one_line(str(message))}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code: 0, 2 for bad input (told in one line), 130 when interrupted. With
        ``FASTCAM_TRACEBACK=1`` in the environment errors keep their traceback.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code = app(args=arguments, prog_name="fastcam", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # a wrong option or argument
        bad_input = (ValueError, TypeError, OSError, ImportError, ArithmeticError)
        expected = isinstance(error, bad_input)
        if os.environ.get("FASTCAM_TRACEBACK") or not (usage or expected):
            raise
        text = _one_line(usage() if usage else describe(error))
        if text:  # a group without a command has just shown its help
            print(f"fastcam: error: {text}", file=sys.stderr)
        return 2
    if code == INTERRUPTED:  # Typer's answer to Ctrl-C, too
        print("fastcam: interrupted; what is saved so far is kept", file=sys.stderr)
    return code if isinstance(code, int) else 0
