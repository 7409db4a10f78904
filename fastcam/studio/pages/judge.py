"""Judge: before, control and after, and what becomes of the network."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from nicegui import ui

from fastcam._util.names import printable
from fastcam._util.run_files import CHECKPOINT, SETTINGS
from fastcam.evaluation.verdicts import THRESHOLDS
from fastcam.report.numbers import percent
from fastcam.studio.core import Studio
from fastcam.studio.home import NoSuchThing
from fastcam.studio.jobs import Job
from fastcam.studio.judging import Judgement
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.parts import Part, aside
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.pictures import data_url, mapped, picture
from fastcam.studio.recipes import Recipe
from fastcam.studio.traces import AFTER, BEFORE, CONTROL, PAGE, SCRIPT

#: Images of each kind whose answer changed.
CHANGED = 8


class JudgePage:
    """The page of one visit."""

    def __init__(self, studio: Studio, people: People) -> None:
        self.studio, self.session = studio, people.here()
        self.job = self.session.current or next(reversed(self.session.judged), None)

    def build(self) -> None:
        """Lay the page out."""
        lead = "The same test images before, after a control without guidance, and after."
        with page("/judge", "Did it help?", lead):
            if self.job is None:
                w.empty("There is no fine-tuning to judge.", "/direct", "Direct the network")
                return
            Part(self.build_choice)
            self.body = Part(self.build_body, id="judged")

    async def build_body(self) -> None:
        """What there is to say of the fine-tuning now."""
        job = self.job
        assert job is not None
        state = job.state()
        if not job.exists:  # discarded in another tab
            w.empty("This fine-tuning was discarded.", "/direct", "Direct the network")
            return
        if state.status != "done":
            words = "It is not judged yet" if state.active else f"It is {state.status}"
            why = state.stage or state.message
            w.empty(f"{words}{why and ': '}{why}.", "/direct", "See how far it is")
            if state.active:
                ui.timer(1.0, self.body.refresh, once=True)
            return
        judgement = await aside(Judgement.load, job.folder)
        recipe = Recipe.from_json(job.content()["arguments"]["recipe"])
        with w.tag("section", "card", aria_label="Verdict"):
            w.text(judgement.verdict, "verdict", id="verdict")
            with w.tag("details"):
                w.tag("summary", text="How this is decided")
                w.text(THRESHOLDS)
            self.buttons(job)
        with w.tag("section", "card", aria_label="The same images"):
            w.tag("h2", text="The same images")
            w.text(f"Grad-CAM of {recipe.attribute}, and the probability that is given to it.")
            await self.faces(job, recipe, judgement.shown, "same")
        with w.tag("section", "card", aria_label="Whose answer changed"):
            await self.changed(job, recipe, judgement)
        ids = ("table", "differences", "reliance")
        with w.tag("section", "card", aria_label="Numbers"):
            w.tag("h2", text="Numbers")
            w.text("In brackets 95% intervals over images; they say nothing of other trainings.")
            for content, id in zip(judgement.tables(), ids, strict=False):
                w.table(content, id)

    def build_choice(self) -> None:
        """The fine-tunings, where there are several."""
        current = self.session.current
        jobs = {j.id: j for j in (*self.session.judged, *([] if current is None else [current]))}
        if len(jobs) < 2:
            return
        options = {}
        for i, (name, job) in enumerate(jobs.items()):
            recipe = Recipe.from_json(job.content()["arguments"]["recipe"])
            options[name] = f"{i + 1}: {recipe.words}, {recipe.loss}, pull {recipe.pull:g}"
        with w.tag("div", "bar card"):
            w.select("Fine-tuning", options, self.job.id if self.job else "", self.choose,
                     id="which")  # fmt: skip

    def choose(self, name: str) -> None:
        """Another fine-tuning; what is under way goes on."""
        with contextlib.suppress(NoSuchThing):
            self.job = self.session.job(name)
        self.body.refresh()

    # --- what becomes of it -----------------------------------------------------------------------

    def buttons(self, job: Job) -> None:
        """Keep, discard, download."""
        kept = job.id in self.studio.networks(self.session)
        files = {"Checkpoint": CHECKPOINT, "Commands": SCRIPT, "Settings": SETTINGS, "Report": PAGE}
        with w.tag("div", "bar"):
            if kept:
                w.text("Kept: See shows it, and the next fine-tuning starts from it.", id="is-kept")
            else:
                w.button("Keep", lambda: self.keep(job), main=True, id="keep")
            w.button("Discard", lambda: self.confirm(job), id="discard")
            for words, name in files.items():
                id = f"get-{name.partition('.')[0]}"
                w.link(words, f"/download/{job.id}/{name}", id=id, download=name)

    async def keep(self, job: Job) -> None:
        """Keep the network."""
        try:
            await aside(self.studio.keep, self.session, job)
        except EXPECTED as error:
            ui.notify(sentence(error), type="negative")
        self.body.refresh()

    def confirm(self, job: Job) -> None:
        """Ask before a fine-tuning goes."""
        w.ask(
            "This fine-tuning will be removed, with its numbers. A kept network stays.",
            "Discard", "Cancel", lambda: self.discard(job), id="discard",
        )  # fmt: skip

    def discard(self, job: Job) -> None:
        """Remove the fine-tuning."""
        self.studio.discard(self.session, job)
        ui.navigate.to("/judge")

    # --- images -----------------------------------------------------------------------------------

    async def changed(self, job: Job, recipe: Recipe, judgement: Judgement) -> None:
        """Images that are judged otherwise after than in the control."""
        count = len(judgement.names)
        w.tag("h2", text="Whose answer changed")
        for id, rows, words in (
            ("gained", judgement.gained, "right after, wrong in the control"),
            ("lost", judgement.lost, "wrong after, right in the control"),
        ):
            w.text(f"{len(rows)} of {count} test images: {words}.", "", id=f"{id}-count")
            if rows:
                await self.faces(job, recipe, rows[:CHANGED], id)

    async def faces(self, job: Job, recipe: Recipe, rows: Sequence[int], id: str) -> None:
        """Rows of maps: before, control, after."""
        shown = await aside(self.studio.judged_faces, job, recipe, list(rows))
        with (
            w.tag("div", "wide", tabindex=0, role="region", aria_label="maps"),
            w.tag("table", "faces", id=f"faces-{id}"),
        ):
            with w.tag("tr"):
                w.tag("th", text="image", scope="row")
                for face in shown:
                    with w.tag("td"):
                        w.image(data_url(picture(face, "image")), printable(face.caption))
            for name in (BEFORE, CONTROL, AFTER):
                with w.tag("tr"):
                    w.tag("th", text=name, scope="row")
                    for face in shown:
                        cam = np.asarray(face.cams[name], np.float32)
                        url = data_url(mapped(face.image, cam, self.session.colours))
                        said = percent(face.scores[name], 0)
                        with w.tag("td"):
                            w.image(url, f"{name}, {printable(face.caption)}", said)
