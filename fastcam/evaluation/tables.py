"""Evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping

from fastcam.evaluation.result import Evaluation
from fastcam.report.numbers import number, percent
from fastcam.report.table import Table


def comparison(evaluations: Mapping[str, Evaluation], title: str = "") -> Table:
    """One column a model, one row a measure.

    Args:
        evaluations: by model name; all of the same attributes, region and split.
        title: stands above the table.

    Raises:
        ValueError: nothing to compare, or evaluations of different things.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to tabulate")
    models = list(evaluations.values())
    first = models[0]
    what = {(e.attribute, e.other, e.region, e.data, e.split, e.threshold) for e in models}
    if len(what) > 1:
        raise ValueError(
            f"evaluations of different things cannot be compared: {sorted(map(str, what))}"
        )
    a, b = first.attribute, first.other
    meaning = {"all": f"{first.split} set", "E1": f"E1 = {a} ∩ {b}", "E2": f"E2 = {a} ∩ not {b}"}
    meaning |= {"a": a, "not a": f"not {a}"}

    rows = []
    for subset in first.subsets:
        label = f"accuracy of {a}, {meaning[subset.name]} (n = {subset.images})"
        rows.append([label, *(percent(e[subset.name].accuracy, 2) for e in models)])
    rows.append(["balanced accuracy", *(percent(e.balanced_accuracy, 2) for e in models)])
    rows.append(["average precision", *(number(e.average_precision) for e in models)])
    rows.append(
        ["accuracy, mean of all attributes", *(percent(e.mean_accuracy, 2) for e in models)]
    )
    if first.region is not None:
        for name in [s.name for s in first.subsets if s.name in ("a", "E1", "E2")]:
            where = f"{meaning[name]}"
            rows.append(
                [f"Grad-CAM energy in {first.region}, {where}",
                 *(percent(e[name].energy, 2) for e in models)]
            )  # fmt: skip
        for name in [s.name for s in first.subsets if s.name in ("a", "E1", "E2")]:
            rows.append(
                [
                    f"IoU with {first.region}, {meaning[name]}",
                    *(number(e[name].iou) for e in models),
                ]
            )
        rows.append([f"dead maps, {a}", *(str(e["a"].dead) for e in models)])
    return Table(["", *evaluations], rows, title)
