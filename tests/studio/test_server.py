"""The server: first use, a restart in the middle, and a token for other machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studio_server import PATIENCE, Served

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def test_first_use_and_the_attention_page(
    browser: Any, serve: Callable[..., Served], tmp_path: Path
) -> None:
    studio = serve("--images", 40, "--epochs", 1, "--survey-images", 8, "--reliance-images", 4)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(studio.url)
    page.wait_for_selector("#first")
    page.screenshot(path=tmp_path / "first.png")
    page.wait_for_selector("#picture-both")
    assert page.input_value("#attribute") == "Wearing_Lipstick"
    page.goto(f"{studio.url}/attention")
    page.click("#train-attention")
    page.wait_for_selector("#top-masks img")
    page.wait_for_selector("#noise-n")
    curve = page.get_attribute("#tone [data-line=now]", "points")
    accuracy = page.get_attribute("#noise [data-line='as trained']", "points")
    assert page.locator("#noise [data-line=transformed]").count() == 0
    page.focus("#n")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "old => document.querySelector('#tone [data-line=now]').getAttribute('points') !== old",
        arg=curve,
    )
    page.wait_for_selector("#noise [data-line=transformed]", state="attached")
    assert page.get_attribute("#noise [data-line='as trained']", "points") is not None
    assert accuracy is not None
    noisy = page.get_attribute("#noisy", "src")
    page.focus("#sigma")
    page.keyboard.press("End")
    page.wait_for_function(
        "old => document.querySelector('#noisy')?.getAttribute('src') !== old", arg=noisy
    )
    page.screenshot(path=tmp_path / "attention.png", full_page=True)
    page.select_option("#channel", "7")
    page.wait_for_function("document.querySelectorAll('#top-masks img').length === 1")
    assert page.inner_text("#top-masks").startswith("channel 7: ")


def test_a_restart_in_the_middle_loses_nothing(
    browser: Any, serve: Callable[..., Served], subject: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("--data", subject[0], "--checkpoint", subject[1], "--survey-images", 8,
             "--reliance-images", 4)  # fmt: skip
    first = serve(*words)
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{first.url}/point")
    page.wait_for_selector("#region-mouth")
    page.click("#region-mouth")
    page.click("#go-direct")
    page.click("#fine-tune")
    page.wait_for_selector("#maps-before img")
    first.stop()
    second = Served(first.out, *words).start()
    try:
        page.goto(f"{second.url}/direct")  # the cookie is still good
        page.wait_for_selector("#job")
        page.wait_for_selector("#go-judge")
        page.click("#go-judge")
        page.wait_for_selector("#table")
    finally:
        second.stop()
        context.close()


def test_another_address_needs_the_token(
    browser: Any, serve: Callable[..., Served], subject: tuple[Path, Path]
) -> None:
    token = "token-of-this-test"
    studio = serve(
        "--data", subject[0], "--checkpoint", subject[1], "--host", "0.0.0.0", "--token", token
    )
    assert "can be reached from other machines" in studio.log.read_text()
    address = studio.url.replace("0.0.0.0", "127.0.0.1").split("/?")[0]
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    assert page.goto(address).status == 401
    assert "its token" in page.inner_text("body")
    page.goto(f"{address}/?token={token}")
    page.wait_for_selector("#picture-both")  # sockets work, too
    assert "token" not in page.url
