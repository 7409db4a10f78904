"""The attention network on synthetic faces: train it, and run every analysis on it.

The analyses are those of Kimura & Tanaka.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from fastcam import analysis
from fastcam._util.progress import Report
from fastcam.analysis import Saved
from fastcam.analysis.ablation_study import remove_ablation
from fastcam.analysis.saved import Analysis
from fastcam.demos.frame import DemoFiles, Frame, Say, opened
from fastcam.demos.settings import AttentionDemoConfig
from fastcam.evaluation.splits import Prepared
from fastcam.faces.sampling import sample_face
from fastcam.faces.writer import split_counts
from fastcam.report import Section
from fastcam.report.numbers import percent, points_range
from fastcam.training import TrainConfig, train
from fastcam.training.run_folder import remove_run

__all__ = ["STAGES", "AttentionDemoConfig", "AttentionDemoResult", "attention_demo", "clear"]

STAGES = ("attributes", "masks", "correlation", "curves", "robustness", "ablation")
SPLITS = (0.7, 0.15, 0.15)
FILES = DemoFiles(
    folders={"network": remove_run, "ablation": remove_ablation}, files={}, analyses=STAGES
)
clear = FILES.clear


@dataclass(frozen=True)
class AttentionDemoResult:
    """The analyses by name (see ``STAGES``), and the page."""

    analyses: dict[str, Saved]
    page: Path


def attention_demo(
    out: str | Path,
    config: AttentionDemoConfig | None = None,
    *,
    workers: int = 2,
    progress: bool | Report | None = True,
    say: Say = print,
) -> AttentionDemoResult:
    """Run the demo; stages that an earlier run with the same settings finished are kept.

    Args:
        out: folder for everything: ``index.html``, the analyses' files, and folders for faces,
            network and ablation.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        progress: True draws bars on a terminal and in a notebook that has ipywidgets; a function is
            called with (what, done, total).
        say: told what happens, one line at a time.

    Raises:
        ValueError: ``out`` holds a demo with other settings; or so few images that no test image
            has an attribute that is shown.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        OSError: a file cannot be written; finished stages are kept.
    """
    config = config or AttentionDemoConfig()
    _check_enough(config)
    with opened(out, config, FILES, workers, progress, say) as frame:
        return _demo(config, frame)


def _check_enough(config: AttentionDemoConfig) -> None:
    """ValueError where no test image will have an attribute that is shown, as the masks need."""
    test = split_counts(config.images, SPLITS)[2]
    missing = {*config.shown}
    for index in range(config.images - test, config.images):
        if not missing:
            return
        drawn = sample_face(config.seed, index).attributes
        missing -= {name for name in missing if drawn.get(name, True)}  # what is unknown is told of
    if missing:
        names = ", ".join(name for name in config.shown if name in missing)
        raise ValueError(
            f"images: expected more than {config.images}: of the {test} test images none has"
            f" {names}, whose masks are shown"
        )


def _demo(config: AttentionDemoConfig, frame: Frame) -> AttentionDemoResult:
    out, stage, progress, workers = frame.out, frame.stage, frame.progress, frame.workers
    data = frame.draw_faces(config.images, seed=config.seed, splits=SPLITS)
    stage(f"training the attention network at {config.size} px for {config.epochs} epochs")
    run = train(_training(config, data, workers), out / "network", progress=progress)
    subject = analysis.load_attention(run.checkpoint)
    splits: dict[str, Prepared] = {}

    def faces(split: str) -> Prepared:
        if split not in splits:
            splits[split] = analysis.open_faces(
                subject, data, split, workers=workers, progress=progress
            )
        return splits[split]

    makers: dict[str, Callable[[], Analysis]] = {
        "attributes": lambda: analysis.attributes(subject, faces("test"), progress=progress),
        "masks": lambda: analysis.top_masks(
            subject, faces("test"), config.shown, progress=progress
        ),
        "correlation": lambda: analysis.correlations(
            subject, faces("test"), attributes=config.shown, progress=progress
        ),
        "curves": analysis.tone_curves,
        "robustness": lambda: analysis.robustness(
            subject, faces("test"), faces("valid"), pairs=config.pairs, sigmas=config.sigmas,
            seed=config.seed, progress=progress,
        ),
        "ablation": lambda: analysis.ablation(
            _ablation(config, data, workers), out / "ablation",
            range(config.seed, config.seed + config.ablation_seeds), progress=progress,
        ),
    }  # fmt: skip

    def analyse(name: str) -> Saved:
        stage(f"analysing: {name}")
        return analysis.save(makers[name](), out / name, frame.settings)

    analyses = {}
    for name in STAGES:
        stored = analysis.load(out / name)
        analyses[name] = frame.kept(stored, stored and stored.settings, partial(analyse, name))
    return AttentionDemoResult(analyses, _write_page(config, frame, analyses))


def _training(config: AttentionDemoConfig, data: Path, workers: int) -> TrainConfig:
    changed = {
        name: getattr(config, name)
        for name in ("model_options", "size", "fit", "epochs", "batch_size", "lr", "clip", "seed")
    }
    return TrainConfig.from_scratch(data, "attention", **changed, device="cpu", workers=workers)


def _ablation(config: AttentionDemoConfig, data: Path, workers: int) -> TrainConfig:
    return replace(
        _training(config, data, workers),
        epochs=config.ablation_epochs,
        batch_size=config.ablation_batch_size,
        limit_train=config.ablation_images,
        limit_valid=100,
    )


def _write_page(config: AttentionDemoConfig, frame: Frame, analyses: dict[str, Saved]) -> Path:
    headings = {
        "attributes": ("Attributes", _attributes(analyses["attributes"])),
        "masks": ("Masks", [_MASKS]),
        "correlation": ("What goes together", [_CORRELATION]),
        "curves": ("Transforming masks", [_CURVES]),
        "robustness": ("Robustness against noise", _robustness(analyses["robustness"])),
        "ablation": ("With and without the two helpers", _ablated(config, analyses["ablation"])),
    }
    sections = [
        Section(
            heading,
            text,
            [table.to_html() for table in analyses[name].tables],
            [(heading, analyses[name].figure.read_bytes())],
        )
        for name, (heading, text) in headings.items()
    ]
    return frame.write_page(
        "An attention network, and what its masks do",
        "A mask for every attribute and channel, trained on synthetic faces, analysed as in Kimura "
        "and Tanaka. Figures marked * are quoted from that paper; they come from other data.",
        sections,
        settings="\n".join(f"{k}: {json.dumps(v)}" for k, v in asdict(config).items()),
        command="fastcam attention demo",
    )


_MASKS = (
    "The input, and the three masks whose removal (T = 1 in that channel) changes the attribute's "
    "logit most, mean over test images that have the attribute. Each mask is drawn on its own "
    "scale, which stands below it; above it, the change in that image."
)
_CORRELATION = (
    "A channel is the mean of its attended features over cells and attributes, an attribute its "
    "logit; both are correlated over the test images. Partners are ordered by the size of the "
    "correlation, whatever its sign."
)
_CURVES = (
    "Trained with T = 1 + M, the network is run with T = 1 + g(M; n, β): n above 1 sharpens the "
    "mask, n below 1 draws it toward one half, β suppresses what it leaves out. n = 1, β = 0 is "
    "the trained point."
)


def _attributes(saved: Saved) -> list[str]:
    mean = saved.values["mean"]
    return [
        f"Mean over attributes: {percent(mean['accuracy'])} are judged right, where always "
        f"saying what is more frequent gives {percent(mean['majority'])}; balanced accuracy "
        f"{percent(mean['balanced'])}, average precision {mean['precision']:.3f}."
    ]


def _robustness(saved: Saved) -> list[str]:
    found, masked = saved.values["search"], saved.values.get("search_with_masks")
    n, beta = found["pair"]
    means = {(p["n"], p["beta"]): fmean(p["accuracy"]) for p in saved.values["pairs"]}
    flat = (0.0, beta)  # h = 1/2 everywhere: no mask takes part, T is the same in all cells
    control = []
    if n == 0:
        control.append(
            f"At n = 0 every mask is constant (T = {1.5 - beta / 2:g}): what was chosen is a scale "
            "of the features, not a use of the masks."
        )
    elif flat in means:
        change = 100 * (means[flat] - means[1.0, 0.0])
        control.append(
            f"As a control, n = 0, β = {beta:g}, where every mask is constant "
            f"(T = {1.5 - beta / 2:g}), changes it by {change:+.2f} points. Its T may differ in "
            "size, too: a constant T of yet another size (another β) can do more."
        )
    if masked is not None and tuple(masked["pair"]) == (1.0, 0.0):
        control.append("With n > 0, no (n, β) is better than the trained one on validation images.")
    elif masked is not None:
        control.append(f"With n > 0, v{_verdict(masked)[1:]}")
    if any(0 < search["pair"][0] < 1 for search in (found, masked) if search is not None):
        control.append(
            "n below 1 draws every mask toward one half; the paper's emphasis of what is large in "
            "a mask, n above 1, draws it away from there."
        )
    return [
        "Gaussian noise is added to images in [0, 1] and clipped; the network is not retrained.",
        *_below_majority(saved.values),
        _verdict(found),
        *control,
    ]


def _below_majority(values: dict[str, Any]) -> list[str]:
    """From which noise level on nobody would use the network; nothing if there is none."""
    trained = next(p["accuracy"] for p in values["pairs"] if (p["n"], p["beta"]) == (1.0, 0.0))
    lost = [s for s, a in zip(values["sigmas"], trained, strict=True) if a < values["majority"]]
    if not lost:
        return []
    levels = ", ".join(f"{s:g}" for s in lost)
    return [
        f"At σ = {levels} the trained network (n = 1, β = 0) judges worse than always saying what "
        "is more frequent."
    ]


def _verdict(found: dict[str, Any]) -> str:
    (n, beta), (low, high) = found["pair"], found["mean_interval"]
    gain = 100 * found["mean_difference"]
    if low > 0:
        verdict = "so the transformation helps on these images."
    elif high < 0:
        verdict = "so it does harm on test images."
    else:
        verdict = "so an effect is not shown."
    return (
        f"Validation images choose n = {n:g}, β = {beta:g}. On test images, mean over noise "
        f"levels, that changes accuracy by {gain:+.2f} points (95% interval "
        f"{points_range(low, high)}, paired bootstrap over images), {verdict}"
    )


def _ablated(config: AttentionDemoConfig, saved: Saved) -> list[str]:
    accuracy = {name: measures["accuracy"] for name, measures in saved.values["scores"].items()}
    gain = 100 * (fmean(accuracy["full"]) - fmean(accuracy["neither"]))
    spread = 100 * max(max(values) - min(values) for values in accuracy.values())
    quoted = saved.values["quoted"]["accuracy_percent"]
    return [
        f"Small on purpose: {config.ablation_images} training images and "
        f"{config.ablation_epochs} epochs for each of "
        f"{len(analysis.VARIANTS) * config.ablation_seeds} runs, so the numbers lie below those of "
        "the network above. The spread is over seeds.",
        f"With both helpers accuracy is {gain:+.2f} points from that with neither; seeds of one "
        f"variant lie up to {spread:.2f} points apart. In the paper it is "
        f"{quoted['full'] - quoted['neither']:+.2f}*.",
    ]
