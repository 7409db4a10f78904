"""What is shown before there is anything to see: opening, and the first use with its bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nicegui import ui

from fastcam.studio.pages.shell import page
from fastcam.studio.pages.widgets import alert, button, progress, tag, text

if TYPE_CHECKING:
    from fastcam.studio.core import Studio


def opening_page(path: str) -> None:
    """Shown while libraries and data are read, which takes seconds."""
    with page(path, "Opening", ""):
        text("Reading the network and its images.", id="opening")


def first_page(studio: Studio, path: str) -> None:
    """Shows the first use until it is over, then the page that was asked for."""
    lead = (
        "The studio draws its own faces and trains a small network on them that has learnt to "
        "read make-up where it should read the mouth. This is done once, and kept."
    )
    with page(path, "Getting ready", lead):
        with tag("div", "card", id="first"):
            show = progress(studio.start_job)
            failed = tag("div")
        text(
            "With images and a network of your own it is not needed: "
            "fastcam studio --data FOLDER --checkpoint model.pt"
        )

    def again() -> None:
        failed.clear()
        studio.begin_start()
        timer.activate()

    def look() -> None:
        state = show()
        if state.status == "done":
            timer.deactivate()
            ui.navigate.to(path)
        elif not state.active:
            timer.deactivate()
            with failed:
                alert(f"This did not work: {state.message or state.status}.")
                button("Try again", again, main=True, id="again")

    timer = ui.timer(0.5, look)
