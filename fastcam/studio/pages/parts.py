"""Parts of a page that are made anew by themselves, while the old one is still shown."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from nicegui import background_tasks

from fastcam.studio.pages.shell import EXPECTED, sentence
from fastcam.studio.pages.widgets import alert, tag

T = TypeVar("T")


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """What takes a while, in a thread, so that other pages are answered meanwhile."""
    return await asyncio.to_thread(work, *arguments)


class Part:
    """A part of a page.

    What is being built stays hidden until it is whole; where it is asked for again meanwhile, the
    later one counts. What goes wrong is told in its place, in a sentence.

    Args:
        build: fills it, perhaps after a while (an async function).
        id: of the element that holds it.
    """

    def __init__(self, build: Callable[..., Any], *, id: str = "") -> None:
        self._build, self._number = build, 0
        self.holder = tag("div", id=id or None)
        self.refresh()

    def refresh(self, *arguments: Any) -> None:
        """Build it anew."""
        if not self.holder.is_deleted:
            self._number += 1
            background_tasks.create(self._run(self._number, arguments))

    async def _run(self, number: int, arguments: tuple[Any, ...]) -> None:
        with self.holder:
            fresh = tag("div", style="display:none")
        try:
            with fresh:
                made = self._build(*arguments)
                if inspect.isawaitable(made):
                    await made
        except EXPECTED as error:
            fresh.clear()
            with fresh:
                alert(sentence(error))
        if self.holder.is_deleted or fresh.is_deleted:
            return
        if number != self._number:
            fresh.delete()
            return
        for old in list(self.holder.default_slot.children):
            if old is not fresh:
                old.delete()
        fresh._props.pop("style", None)
        fresh.update()
