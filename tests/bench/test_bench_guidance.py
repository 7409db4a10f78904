"""``python -m bench guidance``: two of its cells on a small network, and its table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_faces import MODEL, write_faces

from bench import guidance
from bench.guidance import EYES, NOTHING, Cell, Setup, chosen, matrix, table, verdict
from fastcam.training import GuidanceConfig

SETUP = Setup(size=32, base={MODEL: {"lr": 0.1, "epochs": 6, "batch_size": 16}})
TRAIN = {"batch_size": 8, "epochs": 4, "lr": 0.05, "schedule": "constant"}
# Toward the chin, where nothing tells the lips' colour: hiding all but it could not be safe.
CELLS = tuple(
    Cell(
        f"iou {pull:g}",
        model=MODEL,
        train={**TRAIN, **NOTHING},
        guidance={"losses": ("iou",), "pull": pull},
    )
    for pull in (1.0, 0.3)
)
DEFAULT = Cell("default", model=MODEL, train=TRAIN)
# Of a score that is read off the eyes.
HIDDEN = Cell(
    "without eyes", model=MODEL, train={**TRAIN, "epochs": 3, **EYES}, guidance={"pull": 0.0}
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict]]:
    work = tmp_path_factory.mktemp("guidance")
    write_faces(guidance.faces_of(work, 0), 400)
    cells = {c.slug: c for cell in CELLS for c in (cell.control, cell)}
    assert len(cells) == 3  # they share a control
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guidance, "PAIRS", (("Lips", "chin"),))
        patch.setattr(guidance, "OTHER", "Eyes")
        guidance.base(SETUP, work, MODEL, 0, "cpu", 1)
        results = {slug: guidance.run(work, cell, "cpu", 1) for slug, cell in cells.items()}
        patch.setattr(guidance, "PAIRS", (("Lips", "mouth"),))
        results[DEFAULT.slug] = guidance.run(work, DEFAULT, "cpu", 1)
        patch.setattr(guidance, "PAIRS", (("Eyes", "chin"),))
        patch.setattr(guidance, "OTHER", "Lips")
        for cell in (HIDDEN.control, HIDDEN):
            results[cell.slug] = guidance.run(work, cell, "cpu", 1)
        yield results


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_guidance_is_safe_and_moves_the_map(cell: Cell, found: dict[str, dict]) -> None:
    judged = verdict(found[cell.slug], found[cell.control.slug])
    assert judged["finite"]
    assert judged["accuracy change"] > -0.02  # of 100 images, where the matrix has 3,500
    assert judged["energy gain"] > 1.5


def test_the_default_costs_the_guided_attribute_nothing(found: dict[str, dict]) -> None:
    was, got = (found[slug]["splits"]["test"][0] for slug in (DEFAULT.control.slug, DEFAULT.slug))
    assert found[DEFAULT.slug]["diverged"] is None
    assert got["accuracy"] > was["accuracy"] - 0.02
    assert got["region drop"] > 1 and got["eyes drop"] < 0.5


def test_the_table_holds_every_cell(found: dict[str, dict]) -> None:
    text = table((*CELLS, HIDDEN), found)
    assert text.count("\n") == 3 + len(CELLS)
    assert "| iou 1 | 0 |" in text


def test_hidden_eyes_move_the_score_less(found: dict[str, dict]) -> None:
    was, got = (found[c.slug]["splits"]["test"][0] for c in (HIDDEN.control, HIDDEN))
    assert abs(got["eyes drop"]) < abs(was["eyes drop"]) - 0.05
    assert f"{was['eyes drop']:.2f} → {got['eyes drop']:.2f}" in table([HIDDEN], found)


def test_what_is_not_safe_is_said(found: dict[str, dict]) -> None:
    cell = CELLS[0]
    spoiled = {**found[cell.slug], "diverged": "the loss became nan"}
    assert "**not safe**" in table([cell], {**found, cell.slug: spoiled})
    worse = {**found[cell.slug]}
    worse["splits"] = {"test": [{**worse["splits"]["test"][0], "accuracy": 0.2}]}
    assert not verdict(worse, found[cell.control.slug])["safe"]


def test_the_matrix_covers_what_it_promises() -> None:
    cells = matrix()
    names = {cell.name for cell in cells}
    assert sum(cell.name == "default" for cell in cells) == 3
    assert {"pull 0.1", "pull 2", "batch 256", "lr .003", "lr .03", "resnet18"} <= names
    assert {"no max_pair_pull", "guide all", "guide true_class", "two attributes"} <= names
    assert len({cell.slug for cell in cells}) == len(cells)


def test_a_finished_cell_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / CELLS[0].slug
    folder.mkdir(parents=True)
    (folder / "found.json").write_text('{"diverged": "earlier"}')
    assert guidance.run(tmp_path, CELLS[0], "cpu", 1) == {"diverged": "earlier"}


def test_every_loss_and_the_recipes_are_cells() -> None:
    cells = {cell.name: cell for cell in matrix(1)}
    names = ["energy 1", "outside 0.3", "hidden outside + iou 1", "hidden eyes"]
    assert [c.name for c in chosen(list(cells.values()), names)] == names
    with pytest.raises(ValueError, match="--only: no cell is called 'eyes'; there are: "):
        chosen(list(cells.values()), ["eyes"])
    # The control of a cut-out hides nothing, and is that of every other cell.
    assert {cells[name].control.slug for name in names} == {cells["default"].control.slug}
    assert GuidanceConfig(guidance.PAIRS[:1], **cells["energy 0.1"].guidance).pulls == {
        "energy": 0.1
    }
