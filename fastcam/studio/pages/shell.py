"""What all pages share: head, style, the person's session, and what is said of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import app, ui

from fastcam._util.files import describe
from fastcam.studio.home import Home, checked_id
from fastcam.studio.pages.style import CSS
from fastcam.studio.pages.widgets import tag
from fastcam.studio.session import Session

PAGES = {
    "/": "1 See", "/point": "2 Point", "/direct": "3 Direct", "/judge": "4 Judge",
    "/attention": "Attention masks",
}  # fmt: skip
#: What people may meet; anything else is a mistake of the program's, and is told as one.
EXPECTED = (ValueError, TypeError, OSError, KeyError, ImportError, ArithmeticError)

#: Parts of a page are made anew: the control that had the focus hands it on to the one of its name,
#: so that whoever has no mouse goes on where they were.
_FOCUS = """<script>(() => {
  let held = null;
  addEventListener('focusin', e => { held = e.target; });
  addEventListener('focusout', e => setTimeout(() => {
    if (e.target === held && held.isConnected) held = null; }));
  new MutationObserver(() => {
    if (!held || held.isConnected || !held.id || document.activeElement !== document.body) return;
    const now = document.getElementById(held.id);
    if (now && now.getClientRects().length) now.focus({preventScroll: true});
  }).observe(document.documentElement, {childList: true, subtree: true, attributes: true,
                                        attributeFilter: ['style']});
})();</script>"""


class People:
    """The sessions of those who are here, by the cookie that the server has signed."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._known: dict[str, Session] = {}

    def name(self, cookie: str) -> str:
        """The name of a session from that of a cookie."""
        return checked_id(cookie.replace("-", ""))

    def here(self) -> Session:
        """The session of whoever asks for this page; tabs of one browser share it."""
        return self.by_name(self.name(app.storage.browser["id"]))

    def by_name(self, name: str) -> Session:
        """A session by its name."""
        if name not in self._known:
            self._known[name] = Session.open(self.home, name)
        return self._known[name]

    def forget(self, session: Session) -> None:
        """Remove a session with all that it holds."""
        self._known.pop(session.id, None)
        session.remove()


@contextmanager
def page(path: str, title: str, lead: str) -> Iterator[None]:
    """Head and frame of a page."""
    ui.add_css(CSS)
    ui.add_head_html(_FOCUS)
    ui.on_exception(_say)
    ui.page_title(f"{title} · fastcam studio")
    ui.query("html").props("lang=en")
    with tag("header", "studio-head"):
        tag("span", "brand", "fastcam studio")
        with tag("nav", aria_label="Steps"):
            for href, words in PAGES.items():
                tag("a", text=words, href=href, aria_current="page" if href == path else None)
    with tag("main", "studio-main", id="main"):
        tag("h1", text=title)
        tag("p", "lead", lead)
        yield


def _say(error: Exception) -> None:
    """Tell of what a press of a button has come to, such as a full disk."""
    ui.notify(sentence(error) or type(error).__name__, type="negative", multi_line=True)


def sentence(error: BaseException) -> str:
    """What an error says, in one line."""
    words = error.args[0] if isinstance(error, KeyError) and error.args else describe(error)
    return " ".join(str(words).split())
