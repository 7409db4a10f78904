"""A run as lines of the command line, which give the same result."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from fastcam.training import GuidanceConfig, TrainConfig

#: Of a run: what stands elsewhere in the line, or decides nothing.
_ELSEWHERE = {"data", "start", "guidance", "architecture", "targets", "losses", "grid"}


def finetune_words(config: TrainConfig, out: str) -> list[str]:
    """The words of ``fastcam finetune`` that make the run of ``config`` in the folder ``out``.

    Raises:
        ValueError: what the command line cannot say.
    """
    guidance = config.guidance
    if guidance is None or config.start is None or config.architecture is not None:
        raise ValueError("config: expected a fine-tuning of a checkpoint, with guidance")
    words = ["fastcam", "finetune", config.start, config.data]
    for attribute, region in guidance.targets:
        words += ["--attribute", attribute, "--region", region]
    words += ["--out", out]
    usual = GuidanceConfig(targets=guidance.targets, pull=guidance.pull, w_g=guidance.w_g)
    if guidance.losses != usual.losses:
        words += [word for loss in guidance.losses for word in ("--loss", loss)]
    words += _changed(guidance, GuidanceConfig(targets=guidance.targets))
    return [*words, *_changed(config, TrainConfig.finetune(config.start, config.data, guidance))]


def _changed(config: Any, usual: Any) -> list[str]:
    words = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        skipped = f.name in _ELSEWHERE or f.metadata.get("result") is False
        if skipped or value is None or value == getattr(usual, f.name):
            continue
        option = f.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def evaluate_words(
    checkpoints: list[str], data: str, *, attribute: str, other: str | None, region: str, out: str
) -> list[str]:
    """The words of ``fastcam evaluate`` that judge the same."""
    between = ["--other", other] if other else []
    return [
        "fastcam", "evaluate", *checkpoints, data, "--attribute", attribute, *between,
        "--region", region, "--out", out,
    ]  # fmt: skip


def script(lines: Mapping[str, list[str]]) -> str:
    """A shell script of commands, each under what it does."""
    parts = [
        "#!/bin/sh",
        "# Made by fastcam studio: the same result from the command line.",
        "set -e",
    ]
    for what, words in lines.items():
        parts += ["", f"# {what}", shlex.join(words)]
    return "\n".join(parts) + "\n"
