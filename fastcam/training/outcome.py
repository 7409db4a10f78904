"""One-line summary of a fine-tuning: accuracy and attention before and after."""

from __future__ import annotations

from collections.abc import Mapping

from fastcam.evaluation.verdicts import WORSE
from fastcam.report.numbers import percent
from fastcam.training.config import GuidanceConfig

_Metrics = Mapping[str, float | None]
#: The share of empty maps from which the summary speaks of them.
MANY_DEAD = 0.3


def summary(
    guidance: GuidanceConfig,
    before: _Metrics,
    after: _Metrics,
    biases: Mapping[str, float] | None = None,
    hides: bool = False,
) -> str:
    """One line: accuracy and attention on the validation split, before and after.

    Args:
        guidance: what was guided.
        before, after: validation metrics, see :class:`fastcam.training.task.AttributeTask`.
        biases: what was added to the guided attributes' biases, see
            :class:`fastcam.training.TrainResult`.
        hides: whether parts of training images were hidden.

    Returns:
        The line; it ends in plain words if an accuracy fell by more than a point.
    """
    attributes = ", ".join(dict.fromkeys(name for name, _ in guidance.targets))
    regions = ", ".join(dict.fromkeys(region for _, region in guidance.targets))
    named = {
        "valid/accuracy_target": f"accuracy of {attributes}",
        "valid/accuracy": "mean accuracy",
        "valid/energy": f"Grad-CAM energy in {regions}",
    }
    parts = [f"{words} {_change(before.get(k), after.get(k))}" for k, words in named.items()]
    fallen = []
    for key in ("valid/accuracy_target", "valid/accuracy"):
        was, is_now = before.get(key), after.get(key)
        if was is not None and is_now is not None and was - is_now > WORSE:
            fallen.append(f"the {named[key]} fell by {100 * (was - is_now):.1f} points")
    line = f"validation, before and after: {'; '.join(parts)}"
    if guidance.target_layer is not None and guidance.guides:
        line += f" (measured at the model's own layer, guided at {guidance.target_layer})"
    if biases:
        fitted = ", ".join(f"{name} {shift:+.2f}" for name, shift in biases.items())
        line += f" (bias re-fit to these images: {fitted})"
    dead = after.get("valid/dead")
    if dead is not None and dead > MANY_DEAD and guidance.guides:
        line += (
            f". {percent(dead, unit=' %')} of the maps are empty: nothing speaks for the attribute"
            " there, and an empty map has no gradient; train the network longer, or guide a"
            " shallower layer (`fastcam layers`)"
        )
    if fallen:
        line += f". The network got worse: {' and '.join(fallen)}"
        if guidance.guides:
            line += "; try a lower pull or learning rate"
            line += ", or hide nothing (--without nothing)" if hides else ""
    return line


def _change(before: float | None, after: float | None) -> str:
    return " → ".join(percent(v, missing="none", unit=" %") for v in (before, after))
