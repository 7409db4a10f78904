"""The pages beside the main path: bad files, cancelling, two people, keyboard, narrow and dark."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_server import PATIENCE, ROOT, Served
from tiny_studio import encoded

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
PAGES = ("/", "/point", "/direct", "/judge", "/attention")


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory, subject: tuple[Path, Path]
) -> Iterator[Served]:
    data, start = subject
    served = Served(
        tmp_path_factory.mktemp("pages") / "studio", "--data", data, "--checkpoint", start,
        "--survey-images", 16, "--reliance-images", 8, "--max-files", 3, "--max-megapixels", 1,
    )  # fmt: skip
    yield served.start()
    served.stop()


@pytest.fixture
def visit(browser: Any, studio: Served) -> Iterator[Callable[..., Any]]:
    """Opens a page as a person of one's own."""
    opened = []

    def open_page(path: str = "/", width: int = 1280, **how: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 850}, **how)
        context.set_default_timeout(PATIENCE)
        opened.append(context)
        page = context.new_page()
        page.goto(studio.url + path)
        return page

    yield open_page
    for context in opened:
        context.close()


def test_bad_uploads_get_a_sentence_and_good_ones_a_map(
    visit: Callable[..., Any], studio: Served, tmp_path: Path
) -> None:
    page = visit()
    page.wait_for_selector("#picture-both")
    before = page.locator("#picture-both").get_attribute("src")
    files = [
        {"name": "../../note.png", "mimeType": "image/png", "buffer": b"no picture"},
        {"name": "face.png", "mimeType": "image/png", "buffer": encoded(90, 110)},
    ]
    page.set_input_files("input[type=file]", files)
    page.wait_for_selector("#bad-file")
    assert "note.png: it is damaged, or no image" in page.inner_text("#bad-file")
    page.wait_for_selector("#uploads .thumb")
    assert page.locator("#uploads .thumb").count() == 1
    page.wait_for_function(
        "old => document.querySelector('#picture-both')?.getAttribute('src') !== old", arg=before
    )
    page.screenshot(path=tmp_path / "uploads.png", full_page=True)
    name = page.locator("#uploads .thumb").get_attribute("id").removeprefix("upload-")
    assert page.request.get(f"{studio.url}/upload/{name}").status == 200
    stranger = visit()
    assert stranger.request.get(f"{studio.url}/upload/{name}").status == 404  # not hers
    page.click("#forget")
    page.click("#forget-yes")
    page.wait_for_selector("#picture-both")
    assert page.request.get(f"{studio.url}/upload/{name}").status == 404
    assert not list(studio.out.glob(f"sessions/*/uploads/{name}*"))


def test_files_that_the_browser_leaves_out_take_no_others_with_them(
    visit: Callable[..., Any],
) -> None:
    page = visit()
    page.wait_for_selector("#picture-both")
    file = {"mimeType": "image/png", "buffer": encoded(40, 40)}
    page.set_input_files("input[type=file]", [{"name": f"{i}.png", **file} for i in range(5)])
    page.wait_for_selector("#uploads .thumb")
    assert page.locator("#uploads .thumb").count() == 3
    said = page.locator("#bad-file").all_inner_texts()
    assert said == [f"{i}.png: at most 3 images; remove some first" for i in (3, 4)]
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(21 << 20)}
    page.set_input_files("input[type=file]", [large])
    page.wait_for_function("document.querySelector('#bad-file')?.innerText.startsWith('large')")
    assert page.inner_text("#bad-file") == "large.png: it has 21.0 MB; at most 20 MB are taken"


def test_other_colours_are_those_of_every_map(visit: Callable[..., Any]) -> None:
    page = visit()
    page.wait_for_selector("#survey")
    page.wait_for_selector("#image-1 img")
    picture = "document.querySelector('#image-1 img')?.src"
    before = page.evaluate(picture)
    page.select_option("#colours", "viridis")
    page.wait_for_function(f"old => {picture} && {picture} !== old", arg=before)


def test_what_is_drawn_is_looked_at_and_a_broken_stroke_forgotten(
    visit: Callable[..., Any],
) -> None:
    page = visit("/point")
    page.wait_for_selector("#wish-away")
    page.check("#wish-away")
    page.check("#tool-rectangle")
    page.wait_for_selector("svg#template.still")
    page.wait_for_selector("#wish-away", state="detached")  # a rectangle is always looked at
    assert page.is_checked("#wish-here")
    box, mouse = page.locator("#template").bounding_box(), page.mouse

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    mouse.move(*at(0.4, 0.6))
    mouse.down()
    mouse.move(*at(0.6, 0.7), steps=4)
    page.dispatch_event("#template", "pointercancel")  # as of a pen, or another window
    mouse.up()
    page.check("#tool-regions")
    page.wait_for_selector("#wish-away")
    page.click("#region-chin")
    page.wait_for_function("document.querySelector('#chosen')?.innerText.includes('chin')")
    assert page.inner_text("#chosen") == "Look here: chin."


def test_crafted_addresses_lead_nowhere(visit: Callable[..., Any], studio: Served) -> None:
    page = visit()
    page.wait_for_selector("#picture-both")
    for path in (
        "/upload/..%2f..%2fsecret", "/upload/%2e%2e/secret", "/download/0123456789abcdef/model.pt",
        "/download/..%2f..%2f..%2fstart/model.pt", "/download/0123456789abcdef/..%2fjob.json",
        "/upload/0123456789abcdef%00", "/download/0123456789abcdef/secret",
    ):  # fmt: skip
        answer = page.request.get(studio.url + path)
        assert answer.status == 404, path
        assert (studio.out / "secret").read_text() not in answer.text()
    asked = urllib.request.Request(studio.url, headers={"Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=60)


def _begin(page: Any, url: str, epochs: int) -> None:
    page.goto(f"{url}/point")
    page.wait_for_selector("#region-mouth")
    page.click("#region-mouth")
    page.click("#go-direct")
    page.wait_for_selector("#fine-tune")
    page.fill("#epochs", str(epochs))
    page.press("#epochs", "Tab")
    page.wait_for_function(
        f"document.querySelector('#recipe')?.innerText.includes('{epochs} pass')"
    )
    page.click("#fine-tune")


def test_pause_go_on_cancel(visit: Callable[..., Any], studio: Served) -> None:
    page = visit()
    _begin(page, studio.url, 30)
    page.wait_for_selector("#maps-now img")  # some steps are done
    page.click("#pause")
    page.wait_for_selector("#resume")
    assert page.inner_text("#stage") == "paused"
    folder = next(p for p in studio.out.glob("sessions/*/jobs/*") if (p / "after").is_dir())
    assert (folder / "after" / "last.ckpt").is_file()  # where it goes on
    page.click("#resume")
    page.wait_for_selector("#pause")
    page.click("#cancel")
    page.click("#cancel-no")
    page.wait_for_selector("#cancel-no", state="detached")
    assert (folder / "after").is_dir() and page.is_enabled("#pause")
    _cancel(page)
    page.wait_for_function("document.querySelector('#stage')?.innerText === 'cancelled'")
    page.wait_for_selector("#cancel-yes", state="detached")
    assert not (folder / "after").exists()
    assert page.is_enabled("#fine-tune")


def test_two_people_do_not_disturb_each_other(visit: Callable[..., Any], studio: Served) -> None:
    one, two = visit("/point"), visit("/point")
    for page, name in ((one, "mouth"), (two, "nose")):
        page.wait_for_selector("#region-mouth")
        page.click(f"#region-{name}")
        page.wait_for_function(f"document.querySelector('#chosen')?.innerText.includes('{name}')")
    one.reload()
    one.wait_for_selector("#chosen")
    assert one.inner_text("#chosen") == "Look here: mouth."
    assert two.inner_text("#chosen") == "Look here: nose."
    _begin_at_once(one, studio.url)
    two.goto(f"{studio.url}/direct")
    two.wait_for_selector("#fine-tune")
    assert two.is_enabled("#fine-tune") and two.locator("#job").count() == 0


def test_what_else_this_machine_serves_takes_no_session_away(
    visit: Callable[..., Any], studio: Served
) -> None:
    page = visit("/point")
    page.click("#region-mouth")
    page.wait_for_function("document.querySelector('#chosen')?.innerText.includes('mouth')")
    (mine,) = page.context.cookies()
    usual = {"name": "session", "value": "of-another-program", "url": studio.url}
    page.context.add_cookies([usual])  # the name that Starlette gives; ports do not count
    page.reload()
    page.wait_for_selector("#chosen")
    assert page.inner_text("#chosen") == "Look here: mouth."
    assert mine["expires"] > time.time() + 300 * 86400
    again = page.request.get(studio.url).headers["set-cookie"]  # from this visit on
    assert again.startswith(f"{mine['name']}=") and "Max-Age" in again


def test_a_folder_is_one_studios(studio: Served) -> None:
    command = [sys.executable, "-m", "fastcam", "studio", *studio.words]
    second = subprocess.run(
        [*command, "--out", str(studio.out), "--no-show", "--port", "0"],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"{studio.out} is being written by process {studio.process.pid}" in second.stderr


def test_what_cannot_be_written_is_said(visit: Callable[..., Any], studio: Served) -> None:
    page = visit("/point")
    page.wait_for_selector("#region-mouth")
    newest = max(studio.out.glob("sessions/*/session.json"), key=lambda p: p.stat().st_mtime_ns)
    newest.unlink()
    newest.mkdir()  # as on a full disk
    page.click("#region-mouth")
    page.wait_for_selector(f".q-notification:has-text('{newest.name}')")
    newest.rmdir()


def test_what_another_tab_has_chosen_is_said_before_it_is_trained(
    visit: Callable[..., Any], studio: Served
) -> None:
    page = visit("/point")
    page.wait_for_selector("#region-mouth")
    page.click("#region-mouth")
    page.click("#go-direct")
    page.wait_for_selector("#fine-tune")
    page.select_option("#other", "Eyes")
    other = page.context.new_page()
    other.goto(studio.url)
    other.wait_for_selector("#picture-both")
    other.select_option("#attribute", "Eyes")
    other.wait_for_function("document.querySelector('#score')?.innerText.startsWith('Eyes')")
    page.click("#fine-tune")
    page.wait_for_selector("#form #alert")
    assert "Another tab" in page.inner_text("#alert") and page.locator("#job").count() == 0
    assert page.inner_text("#form h2") == "Eyes, look at: mouth"
    found = [json.loads(p.read_text()) for p in studio.out.glob("sessions/*/session.json")]
    assert [s["other"] for s in found if s["attribute"] == "Eyes"] == [""]  # not misled by itself
    page.click("#fine-tune")
    _cancel(page)


def _cancel(page: Any) -> None:
    page.click("#cancel")
    page.click("#cancel-yes")


def _begin_at_once(page: Any, url: str) -> None:
    page.goto(f"{url}/direct")
    page.click("#fine-tune")
    _cancel(page)


def test_by_keyboard_alone(visit: Callable[..., Any]) -> None:
    page = visit("/point")
    page.wait_for_selector("#region-chin")
    page.focus("#region-chin")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#chosen')?.innerText.includes('chin')")
    page.focus("#tool-regions")
    for _ in range(2):  # to the brush
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("svg#template.still")
    page.focus("#template")
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('#chosen')?.innerText.includes('painted')")
    page.focus("#undo")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#chosen')?.innerText === 'Look here: chin.'")
    page.focus("#go-direct")
    page.keyboard.press("Enter")
    page.wait_for_selector("#fine-tune")
    # What a change makes anew keeps the focus.
    page.focus("#pull-gentle")
    for name, pull in (("firm", "1"), ("strong", "2")):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            f"document.querySelector('#recipe')?.innerText.includes('pull {pull}')"
            f" && document.activeElement.id === 'pull-{name}'"
        )
    # Every control can be reached, and has a name.
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, select, [role=checkbox]')]
        .filter(e => !(e.innerText || e.getAttribute('aria-label') || e.title
                       || e.closest('label')?.textContent)).map(e => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_and_can_be_read(
    visit: Callable[..., Any], studio: Served, tmp_path: Path, width: int, scheme: str
) -> None:
    page = visit("/", width, color_scheme=scheme)
    ready = {
        "/": "#survey", "/point": "#region-mouth", "/direct": "#go", "/judge": "#go",
        "/attention": "#train-attention",
    }  # fmt: skip
    for path in PAGES:
        page.goto(studio.url + path)
        page.wait_for_selector(ready[path])
        time.sleep(0.5)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        name = path.strip("/") or "see"
        page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png", full_page=True)
        words = page.evaluate(_CONTRAST)
        assert len(words) > 5
        assert words[0][0] >= 1, (path, words[:5])


#: Words of the page, the least readable first, with their contrast to what lies behind them, as
#: WCAG 2 counts it: large or bold ones need 3, others 4.5; given is the share of what is needed.
_CONTRAST = """() => {
  const parts = c => { const v = c.match(/[0-9.]+/g).map(Number);
    return v.length < 4 ? [...v, 1] : v; };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const light = c => { const v = c.slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const behind = e => { const layers = [];
    for (let x = e; x; x = x.parentElement) layers.push(parts(getComputedStyle(x).backgroundColor));
    const dark = getComputedStyle(document.documentElement).colorScheme.startsWith('dark');
    const white = dark ? 18 : 255;
    return layers.reverse().reduce((under, top) => over(top, under), [white, white, white]); };
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const found = [];
  for (const e of document.querySelectorAll('#main *, .studio-head *')) {
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (!own(e) || e.closest('svg') || e.disabled || !box.width || style.visibility !== 'visible')
      continue;
    const under = behind(e), color = over(parts(style.color), under);
    const [a, b] = [light(color), light(under)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const need = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    found.push([(a + 0.05) / (b + 0.05) / need, e.textContent.trim().slice(0, 60)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""
