"""The attention network on synthetic faces: train it, and run every analysis of K on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastcam import __version__
from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam._util.files import check_target, commented, remove_ours, write_marked
from fastcam._util.progress import Report, labelled, timed

for _module in ("torchvision", "lightning", "torchmetrics", "matplotlib"):
    require(_module, extra="train")

import torch  # noqa: E402

from fastcam import analysis  # noqa: E402
from fastcam.analysis import Saved  # noqa: E402
from fastcam.analysis.ablation_study import remove_ablation  # noqa: E402
from fastcam.analysis.noise_robustness import PAIRS, SIGMAS  # noqa: E402
from fastcam.analysis.saved import Analysis, check_prefix, remove_analysis  # noqa: E402
from fastcam.data import PreparedFaces  # noqa: E402
from fastcam.faces import generate  # noqa: E402
from fastcam.faces.writer import remove_faces  # noqa: E402
from fastcam.report import Section, html_page  # noqa: E402
from fastcam.training import TrainConfig, train  # noqa: E402
from fastcam.training.run import remove_run  # noqa: E402

STAGES = ("attributes", "masks", "correlation", "curves", "robustness", "ablation")
PAGE = "index.html"


@dataclass(frozen=True)
class AttentionDemoConfig:
    """Settings of the demo.

    Attributes:
        images: synthetic faces in all: 70% training, 15% validation, 15% test.
        size, fit, batch_size, lr, clip, epochs: of the training, with a cosine schedule.
        model_options: of the network; None takes it as it comes.
        shown: attributes whose masks and partners are shown.
        pairs, sigmas: transformations (n, β) and noise levels of the robustness.
        ablation_images, ablation_epochs, ablation_batch_size, ablation_seeds: the four variants are
            trained on so few images, and so often, to fit into the time.
        seed: of everything.
    """

    images: int = 3000
    size: int = 64
    fit: str = "face"
    batch_size: int = 32
    lr: float = 0.1
    clip: float = 5.0
    epochs: int = 6
    model_options: dict[str, Any] | None = None
    shown: tuple[str, ...] = ("Wearing_Lipstick", "Eyeglasses", "Blond_Hair")
    pairs: tuple[tuple[float, float], ...] = PAIRS
    sigmas: tuple[float, ...] = SIGMAS
    ablation_images: int = 600
    ablation_epochs: int = 3
    ablation_batch_size: int = 16
    ablation_seeds: int = 2
    seed: int = 0


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
    progress: Report | None = None,
    say: Callable[[str], None] = print,
) -> AttentionDemoResult:
    """Run the demo; stages that an earlier run with the same settings finished are kept.

    Args:
        out: folder for everything: ``index.html``, the analyses' files, and folders for faces,
            network and ablation.
        config: the settings.
        workers: processes that draw faces, and threads that read them.
        progress: called with (what, done, total).
        say: told what happens, one line at a time.

    Raises:
        ValueError: ``out`` holds a demo with other settings.
        FileExistsError: ``out`` holds a file that fastcam did not write and would have to replace.
        BlockingIOError: another process writes there.
        OSError: a file cannot be written; finished stages are kept.
    """
    with claim(out):
        check_target(Path(out) / PAGE, commented)
        for name in STAGES:
            check_prefix(Path(out) / name)
        return _demo(config or AttentionDemoConfig(), Path(out), workers, progress, timed(say))


def _demo(
    config: AttentionDemoConfig,
    out: Path,
    workers: int,
    progress: Report | None,
    stage: Callable[[str], None],
) -> AttentionDemoResult:
    stage(f"drawing {config.images} faces")
    data = generate(
        out / "faces",
        config.images,
        seed=config.seed,
        splits=(0.7, 0.15, 0.15),
        workers=workers,
        progress=labelled(progress, "drawing faces") or False,
    )
    stage(f"training the attention network at {config.size} px for {config.epochs} epochs")
    run = train(_training(config, data, workers), out / "network", progress=progress)
    subject = analysis.load_attention(run.checkpoint)
    splits: dict[str, PreparedFaces] = {}

    def faces(split: str) -> PreparedFaces:
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
    settings = json.loads(json.dumps({**asdict(config), "version": __version__}))
    analyses = {}
    for name in STAGES:
        prefix = out / name
        stored = analysis.load(prefix)
        if stored is None or stored.settings != settings:
            stage(f"analysing: {name}")
            stored = analysis.save(makers[name](), prefix, settings)
        analyses[name] = stored
    page = write_marked(out / PAGE, _page(config, analyses))
    stage(f"done: {page}")
    return AttentionDemoResult(analyses, page)


def clear(out: str | Path) -> None:
    """Remove a demo from its folder, and nothing that a demo does not write."""
    out = Path(out)
    with claim(out):
        remove_faces(out / "faces")
        remove_run(out / "network")
        remove_ablation(out / "ablation")
        remove_ours(out, {PAGE: commented})
        for name in STAGES:
            remove_analysis(out / name)


def _training(config: AttentionDemoConfig, data: Path, workers: int) -> TrainConfig:
    return TrainConfig(
        data=str(data), model="attention", model_options=config.model_options, size=config.size,
        fit=config.fit, epochs=config.epochs, patience=0, batch_size=config.batch_size,
        lr=config.lr, clip=config.clip, schedule="cosine", seed=config.seed, device="cpu",
        workers=workers,
    )  # fmt: skip


def _ablation(config: AttentionDemoConfig, data: Path, workers: int) -> TrainConfig:
    return TrainConfig(
        data=str(data), model="attention", model_options=config.model_options, size=config.size,
        fit=config.fit, epochs=config.ablation_epochs, patience=0,
        batch_size=config.ablation_batch_size, lr=config.lr, clip=config.clip, schedule="cosine",
        limit_train=config.ablation_images, limit_valid=100, device="cpu", workers=workers,
    )  # fmt: skip


def _page(config: AttentionDemoConfig, analyses: dict[str, Saved]) -> str:
    headings = {
        "attributes": ("Attributes", _attributes(analyses["attributes"])),
        "masks": ("Masks", _masks()),
        "correlation": ("What goes together", _correlation()),
        "curves": ("Transforming masks", _curves()),
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
    sections.append(
        Section(
            "Settings",
            [f"Synthetic faces only; nothing was downloaded. torch {torch.__version__}."],
            code="\n".join(f"{k}: {json.dumps(v)}" for k, v in asdict(config).items()),
        )
    )
    return html_page(
        "An attention network, and what its masks do",
        "A mask for every attribute and channel, trained on synthetic faces, analysed as in Kimura "
        "and Tanaka. Figures marked * are quoted from that paper; they come from other data.",
        sections,
        footer=f"Made by fastcam {__version__}, `fastcam attention demo`.",
    )


def _attributes(saved: Saved) -> list[str]:
    mean = saved.values["mean"]
    return [
        f"Mean over attributes: {100 * mean['accuracy']:.1f}% are judged right, where always "
        f"saying what is more frequent gives {100 * mean['majority']:.1f}%; balanced accuracy "
        f"{100 * mean['balanced']:.1f}%, average precision {mean['precision']:.3f}."
    ]


def _masks() -> list[str]:
    return [
        "The input, and the three masks whose removal (T = 1 in that channel) changes the "
        "attribute's logit most, mean over test images that have the attribute. Each mask is "
        "drawn on its own scale, which stands below it; above it, the change in that image."
    ]


def _correlation() -> list[str]:
    return [
        "A channel is the mean of its attended features over cells and attributes, an attribute "
        "its logit; both are correlated over the test images. Partners are ordered by the size of "
        "the correlation, whatever its sign."
    ]


def _curves() -> list[str]:
    return [
        "Trained with T = 1 + M, the network is run with T = 1 + g(M; n, β): n above 1 sharpens "
        "the mask, n below 1 draws it toward one half, β suppresses what it leaves out. n = 1, "
        "β = 0 is the trained point."
    ]


def _robustness(saved: Saved) -> list[str]:
    found, masked = saved.values["search"], saved.values.get("search_with_masks")
    n, beta = found["pair"]
    means = {(p["n"], p["beta"]): _mean(p["accuracy"]) for p in saved.values["pairs"]}
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
            "n below 1 draws every mask toward one half; K's emphasis of what is large in a mask, "
            "n above 1, draws it away from there."
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
        f"levels, that changes accuracy by {gain:+.2f} points (95% interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}, paired bootstrap over images), {verdict}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ablated(config: AttentionDemoConfig, saved: Saved) -> list[str]:
    accuracy = {name: measures["accuracy"] for name, measures in saved.values["scores"].items()}
    gain = 100 * (_mean(accuracy["full"]) - _mean(accuracy["neither"]))
    spread = 100 * max(max(values) - min(values) for values in accuracy.values())
    quoted = saved.values["quoted"]["accuracy_percent"]
    return [
        f"Small on purpose: {config.ablation_images} training images and "
        f"{config.ablation_epochs} epochs for each of "
        f"{len(analysis.VARIANTS) * config.ablation_seeds} runs, so the numbers lie below those of "
        "the network above. The spread is over seeds.",
        f"With both helpers accuracy is {gain:+.2f} points from that with neither; seeds of one "
        f"variant lie up to {spread:.2f} points apart. In K it is "
        f"{quoted['full'] - quoted['neither']:+.2f}*.",
    ]
