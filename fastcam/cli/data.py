"""The verbs that make data: synthetic faces, and landmarks of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastcam.cli.options import Data, Processes, Seed, typer


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
    data: Data,
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
    from fastcam.data.landmarks import LANDMARK_TABLE
    from fastcam.regions.detect import detect_landmarks

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
