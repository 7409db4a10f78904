"""Which address shows which page, and the files that can be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nicegui import app, ui
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from fastcam.studio.core import Studio
from fastcam.studio.home import CHECKPOINT, NoSuchThing
from fastcam.studio.judging import AFTER
from fastcam.studio.pages.attention import attention_page
from fastcam.studio.pages.direct import direct_page
from fastcam.studio.pages.first import first_page
from fastcam.studio.pages.judge import judge_page
from fastcam.studio.pages.point import point_page
from fastcam.studio.pages.see import see_page
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.pages.widgets import alert
from fastcam.studio.session import Session
from fastcam.studio.uploads import picture_of

_PAGES: dict[str, Callable[[Studio, People], None]] = {
    "/": see_page,
    "/point": point_page,
    "/direct": direct_page,
    "/judge": judge_page,
    "/attention": attention_page,
}
#: What of a fine-tuning can be had, by the name that it gets: where it lies in the job's folder.
DOWNLOADS: dict[str, tuple[str, ...]] = {
    "model.pt": (AFTER, CHECKPOINT),
    "settings.json": (AFTER, "settings.json"),
    "commands.sh": ("commands.sh",),
    "report.html": ("report.html",),
}


def tell(studio: Studio) -> None:
    """Tell NiceGUI of every page and file."""
    people = People(studio)
    for path, build in _PAGES.items():
        ui.page(path)(_shown(studio, people, path, build))

    def whose(request: Request) -> Session:
        return people.by_name(people.name(str(request.session["id"])))

    @app.get("/upload/{name}")
    def upload(request: Request, name: str) -> Response:
        return _file(lambda: picture_of(whose(request), name), None)

    @app.get("/download/{name}/{what}")
    def download(request: Request, name: str, what: str) -> Response:
        def path() -> Path:
            return whose(request).job(name).folder.joinpath(*DOWNLOADS[what])

        return _file(path, what)


def _shown(
    studio: Studio, people: People, path: str, build: Callable[[Studio, People], None]
) -> Callable[[], None]:
    """A page, or what has to come before it, or what went wrong."""

    def show() -> None:
        if not studio.ready:
            first_page(studio, path)
            return
        try:
            build(studio, people)
        except EXPECTED as error:
            ui.context.client.content.clear()  # what was built before it went wrong
            with page(path, "This cannot be shown", ""):
                alert(sentence(error))

    return show


def _file(find: Callable[[], Path], name: str | None) -> Response:
    try:
        path = find()
    except (NoSuchThing, KeyError):
        path = None
    if path is None or not path.is_file():
        return PlainTextResponse("There is nothing of that name.", 404)
    kind = None if name is None else "application/octet-stream"
    return FileResponse(path, filename=name, media_type=kind)
