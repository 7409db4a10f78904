"""The jobs' work: the same results as the command line's, and what the pages are told of them."""

from __future__ import annotations

import json
import shlex
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import same_weights
from tiny_studio import write_subject

from fastcam import cli
from fastcam.data import open_folder
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.evaluation import evaluate, predict
from fastcam.evaluation.splits import prepare_split
from fastcam.models import load_checkpoint
from fastcam.regions import LandmarkSource, LandmarkTable
from fastcam.studio import work
from fastcam.studio.app import serve
from fastcam.studio.commands import finetune_words
from fastcam.studio.core import Studio
from fastcam.studio.home import Home, new_id
from fastcam.studio.jobs import Job, State
from fastcam.studio.judging import AFTER, BEFORE, CONTROL, Judgement
from fastcam.studio.pointing import Pointing
from fastcam.studio.recipes import PULLS, Recipe
from fastcam.studio.session import Session
from fastcam.studio.settings import StartConfig, StudioConfig
from fastcam.studio.survey import survey
from fastcam.studio.traces import checkpoint_of, load_losses, load_moments
from fastcam.studio.worker import Progress

LIPS = Recipe("Lips", "mouth", other="Eyes", epochs=2, pull=PULLS["strong"])


def _tuned(folder: Path, subject: tuple[Path, Path], recipe: Recipe) -> Job:
    data, start = subject
    arguments = {"start": str(start), "data": str(data), "recipe": recipe.to_json()}
    job = Job.make(folder / "job", "tune", arguments)
    work.tune(job, job.content()["arguments"], Progress(job))
    return job


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, subject: tuple[Path, Path]) -> Job:
    return _tuned(tmp_path_factory.mktemp("tuned"), subject, LIPS)


def test_a_server_killed_before_its_first_job_began_begins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Job] = []
    monkeypatch.setattr(Job, "start", lambda job: begun.append(job))
    home = Home.open(tmp_path / "studio")
    for _ in range(2):  # the second finds the job written down, and nothing of how far it is
        studio = Studio(home, StudioConfig(), StartConfig())
    assert [job.folder for job in begun] == [home.start] * 2
    for state in (State(status="failed"), State(status="paused"), State(status="done")):
        studio.start_job.write(state)  # the page offers to try again
        Studio(home, StudioConfig(), StartConfig())
    assert len(begun) == 2


def test_the_command_line_gives_the_same(
    tuned: Job, subject: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (tuned.folder / "commands.sh").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("fastcam ")]
    assert [c[1] for c in commands] == ["finetune", "finetune", "evaluate"]
    monkeypatch.chdir(tmp_path)
    for words in commands:
        assert cli.main(words[1:]) == 0
    for run in (AFTER, CONTROL):
        assert same_weights(tmp_path / run / "model.pt", checkpoint_of(tuned.folder, run))
    assert not same_weights(tmp_path / AFTER / "model.pt", tmp_path / CONTROL / "model.pt")
    judged = json.loads((tmp_path / "judged.json").read_text())
    mine = json.loads((tuned.folder / "judgement.json").read_text())["evaluations"]
    for theirs, ours in (("start", BEFORE), ("control", CONTROL), ("after", AFTER)):
        assert judged[theirs]["subsets"] == mine[ours]["subsets"]
        assert judged[theirs]["reliance"] == mine[ours]["reliance"]
    assert judged["after"]["verdict"] == mine[AFTER]["verdict"]


def test_the_judgement_is_evaluates(tuned: Job, subject: tuple[Path, Path]) -> None:
    judgement = Judgement.load(tuned.folder)
    found = evaluate(
        load_checkpoint(checkpoint_of(tuned.folder, AFTER)), subject[0], attribute="Lips",
        other="Eyes", region="mouth",
    )  # fmt: skip
    assert judgement.evaluations[AFTER].subsets == found.subsets
    text = (tuned.folder / "report.html").read_text()
    for table in judgement.tables():
        assert table.to_html() in text
    assert judgement.verdict.partition(":")[0] == "after against control"
    # Whose answer changed, by hand.
    faces = prepare_split(load_checkpoint(subject[1]), subject[0], "test")
    right = {}
    for run in (CONTROL, AFTER):
        model = load_checkpoint(checkpoint_of(tuned.folder, run))
        logits = predict(model, faces, attribute="Lips").logits[:, 0]
        right[run] = (logits > 0) == (faces.labels[:, 0] > 0.5)
    both = [(right[AFTER] & ~right[CONTROL]), (right[CONTROL] & ~right[AFTER])]
    assert [judgement.gained, judgement.lost] == [b.nonzero().flatten().tolist() for b in both]


def test_the_maps_and_losses_that_were_shown_on_the_way(tuned: Job) -> None:
    moments = load_moments(tuned.folder)
    runs = [m.run for m in moments]
    assert runs[0] == BEFORE and {AFTER, CONTROL} < set(runs)
    assert len({json.dumps(m.cams) for m in moments}) > 2  # they change
    assert all(len(m.cams) == len(m.scores) == len(moments[0].scores) for m in moments)
    losses = load_losses(tuned.folder)
    steps = [r["step"] for r in losses[AFTER] if "train/loss_g" in r]
    assert steps == [1, 2]  # 32 images in batches of 32, two passes
    assert all("train/loss_g" not in r for r in losses[CONTROL])


def test_survey(subject: tuple[Path, Path]) -> None:
    data, start = subject
    found = survey(start, data, "Lips", images=12, hidden=6)
    checkpoint = load_checkpoint(start)
    faces = prepare_split(checkpoint, data, "test", limit=12)
    by_hand = predict(checkpoint, faces, attribute="Lips", region="mouth")
    assert by_hand.energy is not None and by_hand.dead is not None
    mouth = found.regions.index("mouth")
    mine = [np.nan if row[mouth] is None else row[mouth] for row in found.energies]
    np.testing.assert_allclose(mine, by_hand.energy.numpy(), atol=1e-4)
    assert torch.tensor(found.scores).allclose(by_hand.logits[:, 0], atol=1e-5)
    rows = (by_hand.labels[:, 0] > 0.5) & ~by_hand.dead
    share = next(s for s in found.shares if s.region == "mouth")
    assert share.images == int(rows.sum())
    assert share.mean == pytest.approx(float(by_hand.energy[rows].mean()), abs=1e-5)
    assert share.low is not None and share.low <= share.mean <= share.high  # type: ignore[operator]
    assert found.reliance is not None and found.reliance.images == 6
    order = found.by_wrong_answer()
    wrong = [not found.right[i] for i in order]
    assert wrong == sorted(wrong, reverse=True) and sorted(order) == list(range(12))
    places = found.by_wrong_place(["mouth"])
    inside = [found.energies[i][mouth] or 0.0 for i in places if not found.dead[i]]
    assert inside == sorted(inside) and all(found.present[i] for i in places)
    assert type(found).from_json(json.loads(json.dumps(found.to_json()))) == found


def test_words_of_a_recipe(tmp_path: Path) -> None:
    recommended = Recipe("Lips", "mouth")
    assert recommended.recommended and recommended.config("m.pt", "d").without == "outside"
    words = finetune_words(recommended.config("m.pt", "d"), "out")
    assert words == shlex.split(
        "fastcam finetune m.pt d --attribute Lips --region mouth --out out --seed 1"
    )
    other = replace(recommended, loss="iou", pull=0.5, avoid="left_eye", epochs=3, limit=9)
    text = shlex.join(finetune_words(other.config("m.pt", "d"), "out"))
    for part in ("--loss iou", "--pull 0.5", "--without left_eye", "--epochs 3", "--limit-train 9"):
        assert part in text
    unhidden = replace(recommended.config("m.pt", "d"), without="nothing")
    assert "--without nothing" in shlex.join(finetune_words(unhidden, "out"))
    control = other.config("m.pt", "d", control=True)
    assert control.without == "nothing" and not control.guided
    with pytest.raises(ValueError, match="hides 100%"):
        replace(recommended, avoid="mouth").config("m.pt", "d")
    with pytest.raises(ValueError, match="loss"):
        Recipe("Lips", "mouth", loss="none")


def test_pages_do_not_wait_for_networks_that_are_run(
    subject: tuple[Path, Path], tmp_path: Path
) -> None:
    studio = Studio(Home.open(tmp_path / "studio"), StudioConfig(), StartConfig(), [subject])
    session = Session.open(studio.home, new_id())
    running, end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(studio.alone, lambda: (running.set(), end.wait(60)))
        assert running.wait(60)
        try:
            found = pool.submit(studio.of, session).result(20)
        finally:
            end.set()
    assert found.path == subject[1]


def test_a_network_that_was_trained_anew_is_shown_as_it_is_now(
    tuned: Job, subject: tuple[Path, Path], tmp_path: Path
) -> None:
    data, path = subject[0], tmp_path / "model.pt"
    shutil.copyfile(subject[1], path)
    studio = Studio(Home.open(tmp_path / "studio"), StudioConfig(), StartConfig(), [(data, path)])
    session = Session.open(studio.home, new_id())
    before = studio.of(session)
    assert studio.of(session) is before
    path.unlink()
    shutil.copyfile(checkpoint_of(tuned.folder, AFTER), path)
    now = studio.of(session).checkpoint.model.state_dict()
    trained = load_checkpoint(path).model.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in now.items())
    shown = studio.of(session)
    path.unlink()
    assert studio.of(session) is shown  # and the other data sets can still be chosen


def test_kept_and_discarded(tuned: Job, subject: tuple[Path, Path], tmp_path: Path) -> None:
    studio = Studio(Home.open(tmp_path / "studio"), StudioConfig(), StartConfig(), [subject])
    session = Session.open(studio.home, new_id())
    job = _copy(tuned, session)
    assert studio.path_of(session) == subject[1].resolve()
    studio.keep(session, job)
    assert same_weights(studio.path_of(session), checkpoint_of(job.folder, AFTER))
    assert studio.networks(session) == {job.id: "Lips from mouth"}
    studio.discard(session, job)
    assert not job.folder.exists() and session.current is None
    assert studio.path_of(session).is_file()  # what was kept stays
    other = Session.open(studio.home, new_id())
    assert not studio.networks(other) and studio.path_of(other) == subject[1].resolve()


def test_pictures_of_any_test_image(tuned: Job, subject: tuple[Path, Path], tmp_path: Path) -> None:
    """Also of those behind the first ones, which alone are held in memory."""
    config = StudioConfig(survey_images=3)
    studio = Studio(Home.open(tmp_path / "s"), config, StartConfig(), [subject])
    session = Session.open(studio.home, new_id())
    assert len(studio.of(session).faces) == 3
    job = _copy(tuned, session)
    faces = prepare_split(load_checkpoint(subject[1]), subject[0], "test")
    for row, image in zip((1, 12), studio.images(job, [1, 12]), strict=True):
        np.testing.assert_array_equal(image, faces[row]["image"].permute(1, 2, 0).numpy())
    shown = studio.judged_faces(job, LIPS, [12, 2])
    assert [f.caption for f in shown] == [faces.names[12], faces.names[2]]
    assert set(shown[0].cams) == {BEFORE, CONTROL, AFTER}


def test_the_networks_of_a_fine_tuning_share_their_images(
    tuned: Job, subject: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large folder is not read again for each of them, nor for each of a page's pictures."""
    opened: list[Path] = []

    def counted(data: Path) -> Any:
        opened.append(data)
        return open_folder(data)

    monkeypatch.setattr("fastcam.studio.core.open_folder", counted)
    own = shutil.copyfile(subject[1], tmp_path / "model.pt")
    home = Home.open(tmp_path / "s")
    studio = Studio(home, StudioConfig(), StartConfig(), [(subject[0], own)])
    data = subject[0].resolve()
    session = Session.open(studio.home, new_id())
    job = _copy(tuned, session)
    assert len(studio.judged_faces(job, LIPS, [12, 2])) == len(studio.images(job, [12, 2])) == 2
    after = studio.subject(checkpoint_of(job.folder, AFTER), data)
    assert after.faces is studio.subject(own.resolve(), data).faces
    assert len(opened) == 1
    shutil.copyfile(checkpoint_of(job.folder, AFTER), own)  # another network: read anew
    assert studio.subject(own.resolve(), data).faces is not after.faces
    assert len(opened) == 2


def test_faces_without_landmarks_are_counted(subject: tuple[Path, Path], tmp_path: Path) -> None:
    data, path = subject
    bare = shutil.copytree(data, tmp_path / "bare")
    (bare / LANDMARK_TABLE).unlink()
    config = StudioConfig(survey_images=4)
    studio = Studio(Home.open(tmp_path / "s"), config, StartConfig(), [subject])
    assert studio.subject(path, data).unplaced == ""
    with pytest.warns(UserWarning, match="template face"):
        said = studio.subject(path, bare).unplaced
    assert said.startswith("4 of 4 images have no landmarks") and f"landmarks {bare}" in said
    table = LandmarkTable.load(data / LANDMARK_TABLE)
    table.source[:] = LandmarkSource.TEMPLATE  # as where no face was found
    table.source[::2] = LandmarkSource.DLIB
    some = shutil.copytree(data, tmp_path / "some")
    table.save(some / LANDMARK_TABLE)
    said = studio.subject(path, some).unplaced
    assert said.endswith("on the template face.") and int(said.split()[0]) in (1, 2, 3)


def _copy(job: Job, session: Session) -> Job:
    name = new_id()
    shutil.copytree(job.folder, session.jobs / name)
    session.choose(tune=name)
    return session.job(name)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    data = tmp_path / "data"
    path = tmp_path / "model.pt"
    torch.save({"format": "fastcam-checkpoint", "state_dict": Harm()}, path)
    home = Home.open(tmp_path / "studio")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        Studio(home, StudioConfig(), StartConfig(), [(data, path)])
    assert not (tmp_path / "harm").exists()
    with pytest.raises(ValueError, match="expected a network for each data set, got 1 and 0"):
        serve(tmp_path / "served", data=[data])
    with pytest.raises(FileNotFoundError, match="none.pt does not exist"):
        serve(tmp_path / "served", data=[tmp_path], checkpoint=[tmp_path / "none.pt"])


def test_several_data_sets(tuned: Job, subject: tuple[Path, Path], tmp_path: Path) -> None:
    """Each with its own network, attributes and kept networks."""
    other = write_subject(tmp_path / "second", trained=False)
    studio = Studio(Home.open(tmp_path / "s"), StudioConfig(), StartConfig(), [subject, other])
    assert list(studio.data_sets) == ["faces", "faces (2)"]
    session = Session.open(studio.home, new_id())
    job = _copy(tuned, session)
    session.point(Pointing(("mouth",)))
    studio.choose_data(session, "faces (2)")
    assert session.pointing.empty and studio.of(session).data == other[0].resolve()
    studio.keep(session, job)  # of the first data: it is not what is looked at
    assert not studio.networks(session) and studio.path_of(session) == other[1].resolve()
    studio.choose_data(session, "nowhere")
    studio.choose_data(session, "faces")
    assert studio.networks(session) == {job.id: "Lips from mouth"}
    again = Session.open(studio.home, session.id)
    assert studio.data_set(again).data == subject[0].resolve()
