"""See: where the network looks for an attribute, in one image and over many."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
from nicegui import events, ui

from fastcam.evaluation.explain import explain_dataset, explain_image
from fastcam.report import ExplainedFace
from fastcam.report.numbers import number, percent
from fastcam.studio.core import Studio
from fastcam.studio.drawing import heat_svg
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.parts import Part, aside
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.pictures import data_url, picture
from fastcam.studio.session import COLOURS
from fastcam.studio.settings import MEGABYTE
from fastcam.studio.survey import Survey
from fastcam.studio.uploads import (
    Upload,
    drop,
    picture_of,
    take,
    too_large,
    too_many,
    uploads_of,
)

#: Thumbnails on a page.
SHOWN = 24
ORDERS = {
    "given": "as they come",
    "place": "most wrong place first",
    "answer": "most wrong answer first",
}
#: Files that the browser leaves out: name, size, and which bound it is that they exceed.
_REFUSED = "(all) => emit(all.map(one => [one.file.name, one.file.size, one.failedPropValidation]))"


class SeePage:
    """The page of one visit."""

    def __init__(self, studio: Studio, people: People) -> None:
        self.studio, self.people, self.session = studio, people, people.here()
        self.order, self.first = "given", 0
        self.upload: Upload | None = None
        self.survey: Survey | None = None
        self.drawn, self.strips = asyncio.Event(), 0
        self.said: tuple[str, ...] = ()  # of files that were not taken
        self.refused: tuple[str, ...] = ()  # of these, those that the browser left out

    def build(self) -> None:
        """Lay the page out."""
        lead = (
            "Choose an attribute. The map shows which parts of the image speak for it (Grad-CAM); "
            "hiding parts shows what the answer really rests on."
        )
        with page("/", "Where does the network look?", lead):
            self.controls()
            with w.tag("div", "two numbers-beside"):
                with w.tag("section", "card", aria_label="One image"):
                    self.one = Part(self.build_one)
                    self.strip = Part(self.build_strip)
                with w.tag("section", "card", aria_label="Over many images"):
                    self.many = Part(self.build_many)
            with w.tag("section", "card", aria_label="Your own images"):
                self.own = Part(self.build_own)

    # --- choices ----------------------------------------------------------------------------------

    def controls(self) -> None:
        """What is looked at."""
        names = {n: n.replace("_", " ") for n in self.studio.of(self.session).checkpoint.judged}
        kept = self.studio.networks(self.session)
        sets = {name: name for name in self.studio.data_sets}
        with w.tag("div", "bar card"):
            if len(sets) > 1:
                chosen = self.studio.data_set(self.session).name
                w.select("Data set", sets, chosen, self.choose_data, id="data-set")
            w.select("Attribute", names, self.session.attribute, self.choose, id="attribute")
            w.select("Colours", COLOURS, self.session.colours, self.colour, id="colours")
            if kept:
                networks = {"": "as it was", **kept}
                w.select("Network", networks, self.session.network, self.change, id="network")

    def choose_data(self, name: str) -> None:
        """Another data set, and with it all of the page."""
        self.studio.choose_data(self.session, name)
        ui.navigate.to("/")

    def choose(self, name: str) -> None:
        """Another attribute."""
        if name in self.studio.of(self.session).checkpoint.judged:
            other = self.session.other
            self.session.choose(attribute=name, other="" if other == name else other)
            self.renew()

    def colour(self, name: str) -> None:
        """Other colours."""
        if name in COLOURS:
            self.session.choose(colours=name)
            self.one.refresh()
            self.strip.refresh()

    def change(self, name: str) -> None:
        """Another network."""
        if not name or name in self.studio.networks(self.session):
            self.session.choose(network=name)
            self.renew()

    def renew(self) -> None:
        """Everything anew."""
        self.survey, self.order, self.first = None, "given", 0
        self.one.refresh()
        self.strip.refresh()
        self.many.refresh()

    # --- one image --------------------------------------------------------------------------------

    async def build_one(self) -> None:
        """Image, map and score side by side."""
        w.tag("h2", text="One image")
        holder = w.tag("div", id="one")
        self.drawn.clear()
        try:
            face, caption, answer = await aside(self.explained)
        finally:
            self.drawn.set()
        name = self.session.attribute.replace("_", " ")
        score = next(iter(face.scores.values()))
        pictures = [
            ("image", "the image", caption),
            ("map", f"Grad-CAM of {name}", "Grad-CAM"),
            ("both", f"Grad-CAM of {name} over the image", "both"),
        ]
        with holder:
            with w.tag("div", "three"):
                for what, words, below in pictures:
                    url = data_url(picture(face, what, self.session.colours))  # type: ignore[arg-type]
                    w.image(url, words, below, id=f"picture-{what}")
            if not np.any(next(iter(face.cams.values()))):
                w.text("The map is empty: no part of this image speaks for the attribute.")
            with w.tag("p", id="score"):
                w.tag("span", text=f"{name}: {percent(score, 0)} ")
                w.tag("span", text=f"– the network says {'yes' if score > 0.5 else 'no'}")
                if answer is not None:
                    right = (score > 0.5) == answer
                    label = "yes" if answer else "no"
                    w.tag("span", "right" if right else "wrong",
                          f", the label says {label}: {'right' if right else 'wrong'}")  # fmt: skip
            with w.tag("div", "meter", role="img", aria_label=f"probability {percent(score, 0)}"):
                w.tag("span", style=f"width:{100 * score:.1f}%")

    def explained(self) -> tuple[ExplainedFace, str, bool | None]:
        """What is shown large: the image with its map, a caption, and its label if it has one."""
        subject = self.studio.of(self.session)
        network, attribute = {"network": subject.checkpoint}, self.session.attribute
        if self.upload is not None:
            points = self.upload.landmarks
            path = picture_of(self.session, self.upload.id)
            face = self.studio.alone(
                lambda: explain_image(
                    network, path, attribute,
                    landmarks=None if points is None else np.array(points, np.float32),
                )
            )  # fmt: skip
            return face, self.upload.name, None
        row = min(self.session.image, len(subject.faces) - 1)
        (face,) = self.studio.alone(
            lambda: explain_dataset(network, subject.faces, [row], attribute)
        )
        names, answer = subject.checkpoint.attributes, None
        if attribute in names:
            answer = bool(subject.faces.labels[row, names.index(attribute)] > 0.5)
        return face, face.caption, answer

    def show(self, row: int) -> None:
        """Show a test image large."""
        self.upload = None
        self.session.choose(image=row)
        self.one.refresh()
        self.strip.refresh()
        self.own.refresh()

    # --- many images ------------------------------------------------------------------------------

    async def build_many(self) -> None:
        """Shares of the regions, and what the score relies on."""
        w.tag("h2", text="Over many images")
        await self.drawn.wait()  # the one image comes first
        self.survey = await aside(self.studio.survey, self.session)
        if self.survey is None:
            job = self.studio.survey_job(self.session)
            show = w.progress(job)

            def look() -> None:
                state = show()
                if state.active or state.status == "paused":  # paused: it makes way for another
                    return
                timer.deactivate()
                if state.status == "done":
                    self.many.refresh()
                else:
                    w.alert(f"This did not work: {state.message or state.status}.")

            timer = ui.timer(0.4, look)
            return
        self.survey_table(self.survey)
        self.strip.refresh()  # its orders are known now

    def survey_table(self, found: Survey) -> None:
        """The template face and the numbers."""
        name = found.attribute.replace("_", " ")
        shares = {s.region: None if s.mean is None else 100 * s.mean for s in found.shares}
        count = max([s.images for s in found.shares], default=0)
        w.text(
            f"{len(found.names)} test images, {sum(found.present)} with {name}; shares over the "
            f"{count} of these whose map is not empty. In brackets the 95% interval.", id="many-n",
        )  # fmt: skip
        subject = self.studio.of(self.session)
        if subject.unplaced:
            w.text(subject.unplaced, id="unplaced")
        if not found.shares:
            w.text("These data have no regions: fastcam init says how masks are added.")
            return
        relied = {} if found.reliance is None else {h.name: h for h in found.reliance.hidden}
        with w.tag("div", "two" if subject.template else ""):
            if subject.template:
                w.svg(heat_svg(shares, f"Share of the map in each region, {name}", "%"))
            hidden = found.reliance
            with w.tag("div"):
                w.text("Red: where it looks. Blue: what it relies on (the drop of the score when "
                       "the region is hidden, in standard deviations of the score"
                       + (f", {hidden.images} images)." if hidden else ")."))  # fmt: skip
        frame = w.tag("div", "wide", tabindex=0, role="region", aria_label="numbers of the regions")
        with frame, w.tag("table", "numbers", id="survey"):
            with w.tag("thead"), w.tag("tr"):
                for head in ("region", "looks there", "", "relies on it", "", "n"):
                    w.tag("th", text=head, scope="col")
            with w.tag("tbody"):
                top = max([s.mean or 0.0 for s in found.shares])
                drop = max([h.drop or 0.0 for h in relied.values()], default=0.0)
                for share in found.shares:
                    self.survey_row(share, relied.get(share.region), top, drop)

    def survey_row(self, share: Any, hidden: Any, top: float, drop: float) -> None:
        """One region; the longest bars are those of ``top`` and ``drop``."""
        low_high = "" if share.low is None else f" ({percent(share.low)} to {percent(share.high)})"
        with w.tag("tr", id=f"survey-{share.region}"):
            w.tag("th", text=share.region.replace("_", " "), scope="row")
            w.tag("td", text=f"{percent(share.mean)}{low_high}")
            self.meter((share.mean or 0.0) / max(top, 1e-9), "")
            bar = None if hidden is None else hidden.bar
            words = "–"
            if bar is not None:
                words = f"{number(bar[0], 2)} ({number(bar[1], 2)} to {number(bar[2], 2)})"
            w.tag("td", text=words)
            self.meter(0.0 if bar is None else bar[0] / max(drop, 1e-9), "relied")
            w.tag("td", text="–" if hidden is None else str(hidden.images))

    def meter(self, share: float, kind: str) -> None:
        """A bar in a cell; the number stands beside it."""
        width = 100 * min(max(share, 0.0), 1.0)
        with w.tag("td", aria_hidden="true"), w.tag("div", f"meter {kind}"):
            w.tag("span", style=f"width:{width:.1f}%")

    # --- thumbnails -------------------------------------------------------------------------------

    async def build_strip(self) -> None:
        """Test images, in the order that was chosen."""
        survey = self.survey
        with w.tag("div", "bar"):
            w.tag("h2", text="Test images")
            known = ORDERS if survey is not None else {"given": ORDERS["given"]}
            w.select("Order", known, self.order, self.sort, id="order")
        rows = self.rows()
        if self.order == "place":
            place = (
                self.session.pointing.words if self.session.pointing.names else "the face's regions"
            )
            w.text(f"Least of the map in: {place}. Images with the attribute alone.")
        shown = rows[self.first : self.first + SHOWN]
        holder = w.tag("div", "strip", id="strip")
        self.strips += 1
        mine = self.strips
        await self.drawn.wait()
        faces = await aside(self.studio.see, self.session, shown, lambda: mine == self.strips)
        if len(faces) < len(shown):
            return  # another strip is being made in its place
        with holder:
            for row, face in zip(shown, faces, strict=True):
                self.thumb(row, face, survey)
        with w.tag("div", "bar"):
            w.text(f"{self.first + 1} to {self.first + len(shown)} of {len(rows)}")
            if self.first:
                w.button("Earlier", partial(self.turn, -SHOWN), id="earlier")
            if self.first + SHOWN < len(rows):
                w.button("More", partial(self.turn, SHOWN), id="more")

    def thumb(self, row: int, face: ExplainedFace, survey: Survey | None) -> None:
        """A small picture to press."""
        pressed = self.upload is None and row == self.session.image
        said = percent(next(iter(face.scores.values())), 0)
        wrong = survey is not None and row < len(survey.right) and not survey.right[row]
        words = f"image {row + 1}, {said}{', wrong' if wrong else ''}"
        made = w.tag(
            "button", "thumb", type="button", id=f"image-{row}", aria_label=words,
            aria_pressed="true" if pressed else "false",
        )  # fmt: skip
        made.on("click", partial(self.show, row), args=[])
        with made:
            w.tag("img", src=data_url(picture(face, "both", self.session.colours)), alt="")
            w.tag("span", "wrong" if wrong else "", said)

    def rows(self) -> list[int]:
        """All images in order."""
        survey = self.survey
        if survey is not None and self.order == "answer":
            return survey.by_wrong_answer()
        if survey is not None and self.order == "place":
            return survey.by_wrong_place(self.session.pointing.names or survey.regions)
        return list(range(len(self.studio.of(self.session).faces)))

    def sort(self, order: str) -> None:
        """Another order."""
        if order in ORDERS:
            self.order, self.first = order, 0
            self.strip.refresh()

    def turn(self, step: int) -> None:
        """Other images."""
        self.first = max(self.first + step, 0)
        self.strip.refresh()

    # --- uploads ----------------------------------------------------------------------------------

    def build_own(self, said: tuple[str, ...] = ()) -> None:
        """Images of one's own."""
        config = self.studio.config
        w.tag("h2", text="Your own images")
        w.text(
            f"Up to {config.max_files} images of any kind and size (at most "
            f"{config.max_megabytes:g} MB and {config.max_megapixels:g} million pixels each). They "
            "stay in the studio's folder on the machine that runs it until you delete them."
        )
        self.said = said
        self.words = Part(self.build_words)
        ui.upload(
            multiple=True, auto_upload=True, on_multi_upload=self.bring, label="Choose images",
            max_files=config.max_files, max_file_size=int(config.max_megabytes * MEGABYTE),
        ).props('accept="image/*,*" id=upload aria-label="Choose images"').on(
            "rejected", self.refuse, js_handler=_REFUSED
        )  # fmt: skip
        found = uploads_of(self.session)
        with w.tag("div", "strip", id="uploads"):
            for upload in found:
                self.upload_thumb(upload)
        if found or self.session.folder.is_dir():
            with w.tag("div", "bar"):
                w.button("Delete all that is mine", self.confirm, id="forget")

    def build_words(self) -> None:
        """What is said of files that were not taken."""
        for words in self.said:
            w.alert(words, id="bad-file")

    def refuse(self, event: Any) -> None:
        """The browser has left files out; the others are on their way, so that nothing else is
        made anew."""
        config = self.studio.config
        self.refused = self.said = tuple(
            too_large(name, size, config) if why == "max-file-size" else too_many(name, config)
            for name, size, why in event.args
        )
        self.words.refresh()

    def upload_thumb(self, upload: Upload) -> None:
        """An image of one's own, to press, and to remove."""
        pressed = self.upload is not None and self.upload.id == upload.id
        found = "a face was found" if upload.landmarks is not None else "no face was found"
        with w.tag("div"):
            made = w.tag(
                "button", "thumb", type="button", id=f"upload-{upload.id}",
                aria_label=f"{upload.name}, {found}", aria_pressed="true" if pressed else "false",
            )  # fmt: skip
            made.on("click", partial(self.show_upload, upload), args=[])
            with made:
                w.tag("img", src=f"/upload/{upload.id}", alt="")
                w.tag("span", text=upload.name)
            w.tag("div", "note", found)
            w.button("Remove", partial(self.remove, upload), id=f"remove-{upload.id}")

    async def bring(self, event: events.MultiUploadEventArguments) -> None:
        """Files have come."""
        most = 4 * self.studio.config.max_files  # a sentence for each of more is no help
        files = [(file.name, await file.read()) for file in event.files[:most]]
        try:
            said = await aside(take, self.session, files, self.studio.config)
        except EXPECTED as error:
            said = [sentence(error)]
        kept = uploads_of(self.session)
        if kept and len(said) < len(files):
            self.upload = kept[-1]
            self.one.refresh()
            self.strip.refresh()
        self.own.refresh((*self.refused, *said))
        self.refused = ()

    def show_upload(self, upload: Upload) -> None:
        """Show one's own image large."""
        self.upload = upload
        self.one.refresh()
        self.strip.refresh()
        self.own.refresh()

    def remove(self, upload: Upload) -> None:
        """Remove one's own image."""
        drop(self.session, upload.id)
        if self.upload is not None and self.upload.id == upload.id:
            self.upload = None
            self.one.refresh()
        self.own.refresh()

    def confirm(self) -> None:
        """Ask before everything goes."""
        w.ask(
            "Your images, fine-tunings and kept networks will be removed from this machine.",
            "Delete", "Cancel", self.forget, id="forget",
        )  # fmt: skip

    def forget(self) -> None:
        """Remove all that is one's own."""
        self.people.forget(self.session)
        ui.navigate.to("/")
