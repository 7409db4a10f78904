"""The loop that a person goes through, in a browser: see, point, direct, judge."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studio_server import PATIENCE, Served
from tiny_runs import same_weights

from fastcam import cli
from fastcam.data.batches import Collate
from fastcam.evaluation import evaluate
from fastcam.evaluation.splits import prepare_split
from fastcam.models import grid_size, load_checkpoint
from fastcam.report.numbers import percent
from fastcam.studio.home import new_id


def cells_of(page: Any, number: int, shape: tuple[int, int]) -> np.ndarray:
    """The shares of an image's cells, as the page shows them."""
    grid = np.zeros(shape)
    for cell in page.locator(f"[id^='cell-{number}-'].covered").all():
        row, column = cell.get_attribute("id").split("-")[2:]
        grid[int(row), int(column)] = float(cell.get_attribute("data-share"))
    return grid


def pictures(page: Any, within: str) -> list[str]:
    """The addresses of the pictures in an element, which hold them."""
    return [i.get_attribute("src") for i in page.locator(f"{within} img").all()]


@pytest.mark.timeout(1200)
def test_see_point_direct_judge(
    browser: Any,
    serve: Callable[..., Served],
    subject: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, start = subject
    checkpoint = load_checkpoint(start)
    studio = serve(
        "--data", data, "--checkpoint", start, "--survey-images", 16, "--reliance-images", 8
    )
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    outside: list[str] = []
    page.on("request", lambda r: outside.append(r.url) if studio.url not in r.url else None)

    # See: another attribute, another map; the survey's numbers are its file's.
    page.goto(studio.url)
    page.wait_for_selector("#picture-both")
    first = pictures(page, "#one")
    page.select_option("#attribute", "Eyes")
    page.wait_for_function("document.querySelector('#score')?.innerText.startsWith('Eyes')")
    second = pictures(page, "#one")
    assert first[0] == second[0] and first[1] != second[1]  # the same image, another map
    page.select_option("#attribute", "Lips")
    page.wait_for_selector("#survey")
    page.wait_for_function("document.querySelector('#many-n')?.innerText.includes('Lips')")
    found = [json.loads(p.read_text()) for p in studio.out.glob("surveys/*/survey.json")]
    lips = next(s for s in found if s["attribute"] == "Lips")
    mouth = next(s for s in lips["shares"] if s["region"] == "mouth")
    said = page.inner_text("#survey-mouth")
    assert percent(mouth["mean"]) in said and percent(mouth["low"]) in said
    page.screenshot(path=tmp_path / "see.png", full_page=True)

    # Point: the cells are the region's grid.
    page.click("text=2 Point")
    page.wait_for_selector("#region-mouth")
    page.click("#region-mouth")
    page.wait_for_selector(".cell.covered")
    faces = prepare_split(checkpoint, data, "test", limit=16)
    shape = grid_size(checkpoint.model, checkpoint.spec, (48, 48))
    samples = [faces[i] for i in range(6)]
    expected = Collate([faces.region("mouth")], shape)(samples)["regions"][:, 0].numpy()
    for i in range(6):
        np.testing.assert_allclose(cells_of(page, i, shape), expected[i], atol=1e-4)
    assert page.get_attribute("#region-mouth", "aria-checked") == "true"
    page.screenshot(path=tmp_path / "point.png", full_page=True)

    # Direct: a few steps; a reload and a second tab in the middle see the same work.
    page.click("#go-direct")
    page.wait_for_selector("#fine-tune")
    page.fill("#epochs", "2")
    page.press("#epochs", "Tab")
    page.wait_for_function("document.querySelector('#recipe')?.innerText.includes('2 passes')")
    page.click("#fine-tune")
    page.wait_for_selector("#job")
    page.reload()
    page.wait_for_selector("#maps-before img")
    assert page.locator("#go-judge").count() == 0  # in the middle
    other = context.new_page()
    other.goto(f"{studio.url}/direct")
    other.wait_for_selector("#job")
    other.close()
    page.wait_for_selector("#go-judge")
    page.wait_for_selector("#maps-now img")
    before, now = pictures(page, "#maps-before"), pictures(page, "#maps-now")
    assert len(before) == len(now) == 6 and before != now
    page.screenshot(path=tmp_path / "direct.png", full_page=True)

    # Judge: the numbers are those of `evaluate` of the checkpoint that one downloads.
    page.click("#go-judge")
    page.wait_for_selector("#table")
    page.wait_for_selector("#faces-same img")
    files = {}
    for id in ("model", "commands", "settings", "report"):
        with page.expect_download() as download:
            page.click(f"#get-{id}")
        name = download.value.suggested_filename
        files[id] = tmp_path / "got" / name
        download.value.save_as(files[id])
    mine = evaluate(load_checkpoint(files["model"]), data, attribute="Lips", region="mouth")
    row = page.locator("#table tr", has_text="accuracy of Lips, test set (n = 16)")
    assert row.locator("td").nth(2).inner_text() == percent(mine["all"].accuracy, 2)
    row = page.locator("#table tr", has_text="Grad-CAM energy in mouth, Lips")
    assert row.locator("td").nth(2).inner_text() == percent(mine["a"].energy, 2)
    assert page.inner_text("#verdict").startswith("after against control: ")
    assert page.inner_text("#verdict") in files["report"].read_text()
    page.screenshot(path=tmp_path / "judge.png", full_page=True)

    # The command line gives the same network.
    monkeypatch.chdir(tmp_path)
    lines = files["commands"].read_text().splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("fastcam finetune")))
    assert cli.main(words[1:]) == 0
    assert same_weights(tmp_path / "after" / "model.pt", files["model"])

    # An earlier fine-tuning can still be judged, and goes only after a question.
    (first,) = studio.out.glob("sessions/*/jobs/*")
    copy = shutil.copytree(first, first.with_name(new_id()))
    page.goto(f"{studio.url}/judge")
    page.wait_for_selector("#which")
    assert page.locator("#which option").count() == 2
    assert page.input_value("#which") == first.name
    page.select_option("#which", copy.name)
    page.wait_for_function(f"document.querySelector('#get-model')?.href.includes('{copy.name}')")
    page.click("#discard")
    page.click("#discard-no")
    page.click("#discard")
    page.click("#discard-yes")
    page.wait_for_function(f"document.querySelector('#get-model')?.href.includes('{first.name}')")
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    assert page.locator("#which").count() == 0

    # Keep: the studio shows it from now on.
    page.click("#keep")
    page.wait_for_selector("#is-kept")
    page.goto(studio.url)
    page.wait_for_selector("#network")
    assert page.locator("#network option").count() == 2
    context.close()
    assert not wrong
    assert not [u for u in outside if not u.startswith(("data:", "blob:"))]
