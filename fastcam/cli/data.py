"""The verbs of data: synthetic faces, landmarks of others, and folders of any other images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastcam.cli.options import Faces, Processes, Regions, Seed, typer


def init(
    data: Annotated[Path, typer.Argument(help="Folder of images with labels.")],
    images: Annotated[
        str | None, typer.Option(help="Folder of the images in it [images, or the folder itself].")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="CSV or TSV with a row for each image [the only one there].")
    ] = None,
    file: Annotated[str | None, typer.Option(help="Its column with the images' names.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Its columns of 0 and 1, with commas between [all such].")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="In place of --labels: its column with an image's class.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Its column with train, valid or test [folders' names, else a hash]."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Its column whose equal cells stay in one split (patients).")
    ] = None,
    coco: Annotated[
        list[str] | None, typer.Option(help="Annotation file in COCO's format; repeat.")
    ] = None,
    regions: Regions = None,
) -> None:
    """Look at a folder of images, say what is there and what is missing, and write fastcam.json.

    Labels come from a table; without one from COCO annotations, or from a folder for each class.
    Masks are PNGs named after the images: `masks/0001.png`, `masks/0001_wing.png` or
    `masks/wing/0001.png`. What is not named is looked for; `fastcam.json` then says it, for you to
    correct.

    Example: `fastcam init birds --classes species`
    """
    import dataclasses
    import shlex

    from fastcam._util.names import parts
    from fastcam.data.description import describe
    from fastcam.data.layout import CONFIG, FolderLayout

    found = describe(
        data, images=images, table=table, file=file, classes=classes, split=split, group=group,
        labels=parts(labels) if labels else None,
        coco=tuple(coco) if coco else None, regions=regions,
    )  # fmt: skip
    typer.echo(str(found))
    if found.layout is not None:
        before = FolderLayout.load(data) if (data / CONFIG).is_file() else found.layout
        said, was = dataclasses.asdict(found.layout), dataclasses.asdict(before)
        typer.echo(f"written: {found.layout.save(data)}")
        for name in said:
            if said[name] != was[name]:
                typer.echo(f"replaced: {name}, which was {was[name]!r}")
    if found.example is not None:
        attribute, region = (shlex.quote(text) if text else text for text in found.example)
        folder = shlex.quote(str(data))
        typer.echo(f"next: fastcam train {folder} -o runs/train")
        if region is not None:
            typer.echo(
                f"      fastcam finetune runs/train/model.pt {folder} -a {attribute} -r {region}"
            )


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
    workers: Processes = None,
) -> None:
    """Draw synthetic faces with attributes and true landmarks, in CelebA's layout.

    A stopped run goes on where it stopped.

    Example: `fastcam synth faces -n 4000 --cooccurrence Wearing_Lipstick:Heavy_Makeup=0.95`
    """
    from fastcam.faces import generate

    pairs = dict(_cooccurrence(text) for text in cooccurrence or [])
    path = generate(out, images, seed=seed, cooccurrence=pairs, splits=splits, workers=workers)
    typer.echo(f"{images} faces in {path}")


def landmarks(
    data: Faces,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table to write [DATA/landmarks68.npz].")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="dlib's 68-point model, where it is not found by itself.")
    ] = None,
    workers: Processes = None,
) -> None:
    """Find the 68 landmarks of every image once, with dlib, so that training never has to.

    Faces that dlib misses get the template's landmarks and are counted. A stopped run goes on
    where it stopped. Needs the extra `landmarks`.

    Example: `fastcam landmarks celeba`
    """
    from fastcam._util.claim import claim
    from fastcam.data import ImageSource
    from fastcam.data.folder import is_celeba
    from fastcam.data.landmarks import LANDMARK_TABLE
    from fastcam.regions.detect import detect_landmarks

    if data.is_dir() and not is_celeba(data):
        raise ValueError(
            f"{data} is not in CelebA's layout, in which faces have landmarks; docs/data.md has the"
            " lines that bring photos of your own into it"
        )
    target, source = out or data / LANDMARK_TABLE, ImageSource(data)
    with claim(target, folder=False):
        detect_landmarks(source, target, predictor=predictor, workers=workers)


def _cooccurrence(text: str) -> tuple[tuple[str, str], float]:
    try:
        pair, p = text.split("=")
        a, b = pair.split(":")
        return (a, b), float(p)
    except ValueError:
        raise ValueError(f"--cooccurrence: expected A:B=p, got {text!r}") from None
