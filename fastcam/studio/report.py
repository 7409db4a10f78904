"""The page about a fine-tuning, which needs nothing but itself to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastcam import __version__
from fastcam.evaluation.explain import explain_dataset
from fastcam.evaluation.splits import prepare_split
from fastcam.evaluation.verdicts import THRESHOLDS
from fastcam.models import load_checkpoint
from fastcam.report import Section, curves_figure, faces_figure, html_page, png_bytes
from fastcam.studio.judging import Judgement
from fastcam.studio.recipes import Recipe
from fastcam.studio.traces import load_losses


def report_page(
    checkpoints: Mapping[str, Path],
    data: Path,
    recipe: Recipe,
    judgement: Judgement,
    folder: Path,
    script: str,
) -> str:
    """The page as text.

    Args:
        checkpoints: before, control and after.
        data: folder of the images.
        recipe, judgement: what was done, and what it did.
        folder: of the job, whose losses are drawn.
        script: the commands that do the same.
    """
    models = {name: load_checkpoint(path) for name, path in checkpoints.items()}
    first = next(iter(models.values()))
    faces = prepare_split(first, data, "test", regions=[recipe.region], cache=False)
    shown = explain_dataset(models, faces, judgement.shown, recipe.attribute, region=recipe.region)
    losses = load_losses(folder)
    changed = (
        f"Of {len(judgement.names)} test images, {len(judgement.gained)} are judged right after "
        f"the fine-tuning and wrong in the control; {len(judgement.lost)} the other way round."
    )
    return html_page(
        f"Looking at {recipe.region} for {recipe.attribute}",
        "Before, a control without guidance, and after, on the same test images.",
        [
            Section(
                "What changed",
                [judgement.verdict, changed, THRESHOLDS],
                [table.to_html() for table in judgement.tables()],
            ),
            Section(
                "The same images",
                pictures=[("Grad-CAM of the three", png_bytes(faces_figure(shown)))],
            ),
            Section("Training", pictures=[("training curves", png_bytes(curves_figure(losses)))]),
            Section("The same by hand", code=script),
        ],
        footer=f"Made by fastcam {__version__}, `fastcam studio`.",
    )
