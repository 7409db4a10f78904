"""Direct: how hard, and the fine-tuning as it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from nicegui import ui

from fastcam.studio.core import Studio
from fastcam.studio.drawing import curves_svg
from fastcam.studio.jobs import Job
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.moments import moments_view
from fastcam.studio.pages.parts import Part
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.queues import UNFINISHED
from fastcam.studio.recipes import LOSS_WORDS, PULLS, Recipe
from fastcam.studio.traces import LOSSES, MAPS, load_losses
from fastcam.training.config import FINETUNE
from fastcam.training.config import LOSSES as RECOMMENDED

MOST_EPOCHS = 30


class DirectPage:
    """The page of one visit."""

    def __init__(self, studio: Studio, people: People) -> None:
        self.studio, self.session = studio, people.here()
        self._shown = self._chosen()
        self._seen: tuple[int, int] = (0, 0)

    def build(self) -> None:
        """Lay the page out."""
        name = self.session.attribute.replace("_", " ")
        lead = (
            f"The network is trained on for a while, and told to read {name} where you have "
            "pointed. A control gets the same training without being told."
        )
        with page("/direct", "Direct it", lead):
            if self.session.pointing.empty and self.session.current is None:
                w.empty("You have not pointed anywhere yet.", "/point", "Point at a region")
                return
            with w.tag("section", "card", aria_label="Recipe"):
                self.form = Part(self.build_form, id="form")
            with w.tag("section", aria_label="Progress"):
                self.running = Part(self.build_running, id="running")

    # --- the recipe -------------------------------------------------------------------------------

    def build_form(self, wrong: str = "") -> None:
        """Loss, pull and passes; the recommended ones first."""
        session, self._shown = self.session, self._chosen()
        attribute = session.attribute.replace("_", " ")
        w.tag("h2", text=f"{attribute}, look at: {session.pointing.words}")
        known = self.studio.of(session).checkpoint.attributes
        names = [n for n in known if n != session.attribute]
        others = {"": "nothing in particular", **{n: n.replace("_", " ") for n in names}}
        pulls = {k: f"{k} (pull {v:g})" for k, v in PULLS.items()}
        losses = {k: f"{k}: {words}" for k, words in LOSS_WORDS.items()}
        losses[RECOMMENDED[0]] += " (recommended)"
        with w.tag("div", "bar"):
            w.select("What may mislead it (for judging)", others, session.other, self.set("other"),
                     id="other")  # fmt: skip
            w.number("Passes over the images", session.epochs, self.epochs, id="epochs", low=1,
                     high=MOST_EPOCHS)  # fmt: skip
        w.choices("How hard", pulls, session.pull, self.set("pull"), id="pull")
        with w.tag("details"):
            w.tag("summary", text="Another loss of the map")
            w.select("Loss", losses, session.loss, self.set("loss"), id="loss")
        try:
            recipe = self.recipe()
        except EXPECTED as error:
            w.alert(sentence(error))
            return
        plain = "The recommended recipe" if recipe.recommended else "Not the recommended recipe"
        hidden = "all but the region" if not recipe.avoid else recipe.avoid.replace("_", " ")
        w.text(
            f"{plain}: loss {recipe.loss}, pull {recipe.pull:g} (1: as hard as the labels), "
            f"{recipe.epochs} pass{'es' if recipe.epochs > 1 else ''} in batches of "
            f"{FINETUNE['batch_size']}, {hidden} hidden in a quarter of the images.", id="recipe",
        )  # fmt: skip
        if wrong:
            w.alert(wrong)
        job = session.current
        busy = job is not None and job.state().status in UNFINISHED
        w.button("Fine-tune", self.begin, main=True, id="fine-tune",
                 disabled=busy or session.pointing.empty)  # fmt: skip

    def _chosen(self) -> tuple[object, ...]:
        """What is chosen on other pages."""
        session = self.session
        return session.data_set, session.network, session.attribute, session.pointing

    def set(self, field: str) -> Callable[[str], None]:
        """What takes a choice."""

        def take(value: str) -> None:
            self.session.choose(**{field: value})
            self.form.refresh()

        return take

    def epochs(self, text: str) -> None:
        """So many passes."""
        with contextlib.suppress(ValueError):
            self.session.choose(epochs=min(max(int(float(text)), 1), MOST_EPOCHS))
        self.form.refresh()

    def recipe(self) -> Recipe:
        """What was chosen."""
        session = self.session
        if session.pull not in PULLS:
            raise ValueError(f"how hard: expected one of {', '.join(PULLS)}, got {session.pull!r}")
        return Recipe(
            session.attribute,
            session.pointing.text,
            other=session.other or None,
            avoid=session.pointing.avoid_text,
            loss=session.loss,
            pull=PULLS[session.pull],
            epochs=session.epochs,
        )

    def begin(self) -> None:
        """Begin the fine-tuning."""
        if self._chosen() != self._shown:
            self.form.refresh("Another tab has chosen this since. Press once more to begin it.")
            return
        try:
            self.studio.begin_tune(self.session, self.recipe())
        except EXPECTED as error:
            self.form.refresh(sentence(error))
            return
        self.form.refresh()
        self.running.refresh()

    # --- under way --------------------------------------------------------------------------------

    def build_running(self) -> None:
        """The fine-tuning under way, or the last one."""
        job = self.session.current
        if job is None:
            return
        with w.tag("div", "card", id="job"):
            w.tag("h2", text="Fine-tuning")
            show = w.progress(job)
            buttons = w.tag("div", "bar")
            words, self.asking = w.tag("div"), w.tag("div")
        with w.tag("div", "two"):
            with w.tag("div", "card"):
                w.tag("h2", text="Losses")
                losses = Part(lambda: self.build_losses(job), id="losses")
            with w.tag("div", "card"):
                w.tag("h2", text="The maps of six images")
                maps = Part(lambda: moments_view(self.studio, self.session, job), id="maps")
        last = ""

        def look() -> None:
            nonlocal last
            state = show()
            stamps = (_stamp(job, LOSSES), _stamp(job, MAPS))
            if stamps[0] != self._seen[0]:
                losses.refresh()
            if stamps[1] != self._seen[1]:
                maps.refresh()
            self._seen = stamps
            if state.status == last:
                return
            last = state.status
            buttons.clear()
            words.clear()
            with buttons:
                self.buttons(job, state.status)
            with words:
                if state.status == "failed":
                    w.alert(f"This did not work: {state.message}")
                elif state.status == "cancelled":
                    w.text("Cancelled; nothing of it is left.")
            if state.status in ("done", "cancelled"):
                self.asking.clear()  # there is nothing to be cancelled any more
            self.form.refresh()

        look()
        ui.timer(0.4, look)

    def buttons(self, job: Job, status: str) -> None:
        """What can be done with it."""
        if status in ("waiting", "running"):
            w.button("Pause", job.pause, id="pause")
            w.button("Cancel", lambda: self.confirm(job), id="cancel")
        elif status in ("paused", "failed"):
            w.button("Go on", lambda: self.studio.tunes.submit(job), main=True, id="resume")
            w.button("Cancel", lambda: self.confirm(job), id="cancel")
        elif status == "done":
            w.link("Judge it", "/judge", id="go-judge", main=True)

    def confirm(self, job: Job) -> None:
        """Ask before the work of minutes goes."""
        instead = (
            "Pause stops it, and keeps them." if job.state().active else "As it is, it can go on."
        )
        self.asking.clear()
        with self.asking:  # the buttons are made anew with every state
            w.ask(
                f"The networks that this fine-tuning has trained so far will be removed. {instead}",
                "Cancel it", "Leave it", job.cancel, id="cancel",
            )  # fmt: skip

    def build_losses(self, job: Job) -> None:
        """Losses by step, of the fine-tuning and of the control."""
        runs = load_losses(job.folder)
        lines = {}
        for run, records in runs.items():
            for key, words in (("train/loss_a", "labels"), ("train/loss_g", "map")):
                points = [(r["step"], r[key]) for r in records if key in r]
                if points:
                    lines[f"{words}, {run}"] = points
        if not lines:
            w.text("They come with the first steps.")
            return
        w.svg(curves_svg(lines, "Losses by step", x_label="step", y_label="loss", marks=True))


def _stamp(job: Job, name: str) -> int:
    try:
        return (job.folder / name).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
