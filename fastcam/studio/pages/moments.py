"""The maps of six images at the start and now."""

from __future__ import annotations

import numpy as np

from fastcam.report.numbers import percent
from fastcam.studio.core import Studio
from fastcam.studio.jobs import Job
from fastcam.studio.pages import widgets as w
from fastcam.studio.pages.parts import aside
from fastcam.studio.pictures import data_url, mapped
from fastcam.studio.session import Session
from fastcam.studio.traces import AFTER, BEFORE, Moment, load_moments, load_rows


async def moments_view(studio: Studio, session: Session, job: Job) -> None:
    """Draw them: a row before, a row now."""
    moments, rows = load_moments(job.folder), load_rows(job.folder)
    if not moments:
        w.text("They come when the images are open.")
        return
    before = next((m for m in moments if m.run == BEFORE), moments[0])
    after = [m for m in moments if m.run == AFTER]
    images = await aside(studio.images, job, rows)
    _row("before", before, images, session.colours, "before")
    if after:
        _row(f"after step {after[-1].step}", after[-1], images, session.colours, "now")


def _row(title: str, moment: Moment, images: list[np.ndarray], colours: str, id: str) -> None:
    w.text(title, "note", id=f"maps-{id}-title")
    with w.tag("div", "six", id=f"maps-{id}"):
        for i, (image, cam) in enumerate(zip(images, moment.cams, strict=True)):
            url = data_url(mapped(image, np.array(cam, np.float32), colours))
            said = percent(moment.scores[i], 0)
            w.image(url, f"map of image {i + 1} {title}", said)
