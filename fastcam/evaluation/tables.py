"""Evaluations side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fastcam.evaluation.difference import Difference, difference_table
from fastcam.evaluation.reliance_result import reliance_table
from fastcam.evaluation.result import Evaluation, SubsetScore
from fastcam.evaluation.scores import subset_names
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
    a, meaning = first.attribute, subset_names(first.attribute, first.other)
    meaning["all"] = f"{first.split} set"
    table = Table(["", *evaluations], [], title)

    def row(label: str, value: Callable[[Evaluation], str]) -> None:
        table.rows.append([label, *map(value, models)])

    def rows(label: str, names: Sequence[str], value: Callable[[SubsetScore], str]) -> None:
        for subset in (s for s in first.subsets if s.name in names):
            cells = [value(e[subset.name]) for e in models]
            table.rows.append([label.format(meaning[subset.name], n=subset.images), *cells])

    accuracies = [s.name for s in first.subsets if s.name not in ("b", "not b")]
    rows(f"accuracy of {a}, {{}} (n = {{n}})", accuracies, lambda s: percent(s.accuracy, 2))
    if first.other is not None:
        row("least accuracy of the four groups", lambda e: percent(e.worst_group, 2))
    if first.equal_specificity is not None:
        name = first.equal_specificity.reference
        equal = (e.equal_specificity for e in models)
        cells = [percent(found.accuracy if found else None, 2) for found in equal]
        table.rows.append([f"accuracy of E2 at {name}'s accuracy of not {a}", *cells])
    row("balanced accuracy", lambda e: percent(e.balanced_accuracy, 2))
    within = ("all", "b", "not b")
    rows("AUC, {}", within, lambda s: number(s.auc))
    rows("average precision, {}", within, lambda s: number(s.average_precision))
    row("expected calibration error", lambda e: number(e.calibration_error))
    row(_overall(models), lambda e: percent(e.mean_accuracy, 2))
    where = first.region
    if where is not None:
        parts = ("a", "E1", "E2")
        rows(f"Grad-CAM energy in {where}, {{}}", parts, lambda s: percent(s.energy, 2))
        rows(f"IoU with {where}, {{}}", parts, lambda s: number(s.iou))
        rows(
            f"energy over area of {where}, {{}}",
            ("a",),
            lambda s: number(s.size_corrected_energy, 2),
        )
        rows(f"peak in {where} (pointing game), {{}}", ("a",), lambda s: percent(s.pointing, 2))
        rows(f"Attention-IoU with {where}, {{}}", ("a",), lambda s: number(s.attention_iou))
        row(f"dead maps, {a}", lambda e: str(e["a"].dead))
    return table


def _overall(models: Sequence[Evaluation]) -> str:
    if models[0].exclusive:
        return "accuracy, all classes (top 1)"
    same = len({e.judged for e in models}) == 1
    return f"accuracy, mean of all attributes{'' if same else ' that each one judges'}"


def tables_of(
    evaluations: Mapping[str, Evaluation],
    differences: Mapping[str, Sequence[Difference]] | None = None,
) -> list[Table]:
    """Accuracy and attention; the differences, where there are any; the reliance, where measured.

    Args:
        evaluations: as of :func:`comparison`.
        differences: by what is compared, see :func:`difference_table`.
    """
    tables = [comparison(evaluations)]
    if differences is not None:
        first = next(iter(evaluations.values()))
        tables.append(difference_table(differences, attribute=first.attribute, other=first.other))
    relied = {name: e.reliance for name, e in evaluations.items() if e.reliance is not None}
    return [*tables, reliance_table(relied)] if relied else tables
