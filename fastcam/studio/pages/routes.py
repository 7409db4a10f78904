"""Which address shows which page, and the files that can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nicegui import app, run, ui
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from fastcam._util.run_files import CHECKPOINT, SETTINGS
from fastcam.studio.home import Home, NoSuchThing
from fastcam.studio.pages.first import first_page, opening_page
from fastcam.studio.pages.shell import EXPECTED, People, page, sentence
from fastcam.studio.pages.widgets import alert
from fastcam.studio.session import Session
from fastcam.studio.traces import AFTER, PAGE, SCRIPT
from fastcam.studio.uploads import picture_of

if TYPE_CHECKING:
    from fastcam.studio.core import Studio

#: Modules of the pages: imported when first shown, so that the first is there soon.
_PAGES = {
    "/": "see",
    "/point": "point",
    "/direct": "direct",
    "/judge": "judge",
    "/attention": "attention",
}
#: Seconds after which the other pages' modules are imported: the first page is there by then.
_SETTLED = 8.0
#: Seconds that a browser has to open its socket.
_PATIENCE = 60.0
#: What of a fine-tuning can be had, by the name that it gets: where it lies in the job's folder.
DOWNLOADS: dict[str, tuple[str, ...]] = {
    CHECKPOINT: (AFTER, CHECKPOINT),
    SETTINGS: (AFTER, SETTINGS),
    SCRIPT: (SCRIPT,),
    PAGE: (PAGE,),
}


def tell(home: Home, opened: Future[Studio]) -> None:
    """Tell NiceGUI of every page and file.

    Args:
        home: the studio's folder.
        opened: the studio, as soon as it is open; the pages wait for it.
    """
    people = People(home)
    for path in _PAGES:
        ui.page(path)(_shown(opened, people, path))
    app.timer(_SETTLED, lambda: run.io_bound(_import_all), once=True)

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


def _page(path: str) -> Callable[[Studio, People], Any]:
    name = _PAGES[path]
    return getattr(import_module(f"fastcam.studio.pages.{name}"), f"{name.title()}Page")


def _import_all() -> None:
    for path in _PAGES:
        _page(path)


def _shown(
    opened: Future[Studio], people: People, path: str
) -> Callable[[], Coroutine[Any, Any, None]]:
    """A page, or what has to come before it, or what went wrong."""

    async def show() -> None:
        kept = app.storage.browser
        kept["id"] = kept["id"]  # sent anew: it lasts from the last visit, not from the first
        if not opened.done():
            opening_page(path)
            await ui.context.client.connected(timeout=_PATIENCE)
            await asyncio.wait([asyncio.wrap_future(opened)])
            ui.context.client.content.clear()
        if opened.exception() is not None:
            return  # the server is about to end, and says why
        studio = opened.result()
        if not studio.ready:
            first_page(studio, path)
            return
        try:
            _page(path)(studio, people).build()
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
