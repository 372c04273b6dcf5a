"""A clip's page in a real browser: where hands are drawn, what plays, captions as text."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.view_site import Site, site
from tests.view.clip_run import HAND_AT_S, HOSTILE, Made, write

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium here")]

# colour of the overlay at a place of the picture, 0 to 255 each, RGBA
PIXEL = """([x, y]) => {
  const canvas = document.querySelector('.clip-overlay');
  const at = [Math.round(x * (canvas.width - 1)), Math.round(y * (canvas.height - 1))];
  return [...canvas.getContext('2d').getImageData(...at, 1, 1).data];
}"""
DRAWN = """() => {
  const canvas = document.querySelector('.clip-overlay');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
}"""
VIDEO = "document.querySelector('.clip-stage video')"
TIME = f"{VIDEO}.currentTime"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_vqgan: Path) -> Made:
    return write(tmp_path_factory.mktemp("run"), tiny_vqgan)


@pytest.fixture(scope="module")
def served(made: Made) -> Iterator[Site]:
    with site(made.out) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(served: Site, browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.dialogs, opened.errors = [], []
    opened.on("dialog", lambda dialog: (opened.dialogs.append(dialog.message), dialog.dismiss()))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(served.address)
    yield opened
    assert (opened.dialogs, opened.errors) == ([], [])
    context.close()


def until(page: Any, true: str) -> None:
    """Wait for an expression to be true; the page's policy lets no library do it."""
    for _ in range(400):
        if page.evaluate(true):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(true)


def show(page: Any, clip_id: str) -> None:
    page.evaluate(f"location.hash = '#/clip/{clip_id}'")
    page.wait_for_selector(".clip-verdict")
    until(page, f"{VIDEO}.readyState >= 2")


def hold(page: Any, time_s: float) -> None:
    """Stop the video at a time of its own."""
    page.evaluate(f"time => {{ {VIDEO}.pause(); {VIDEO}.currentTime = time; }}", time_s)
    until(page, f"!{VIDEO}.seeking && Math.abs({TIME} - {time_s}) < 0.01")
    page.wait_for_timeout(300)


def test_a_landmark_is_drawn_where_the_table_says(page: Any) -> None:
    show(page, "kept")
    hold(page, HAND_AT_S + 0.02)
    for point in (0, 8, 20):  # landmark i lies at (3 i, 3 i + 1) / 63
        red, green, blue, alpha = page.evaluate(PIXEL, [3 * point / 63, (3 * point + 1) / 63])
        assert alpha > 200
        assert green > red + 60
        assert green > blue + 60
    for corner in ([0.25, 0.55], [0.75, 0.9]):  # on the sides of the box
        assert page.evaluate(PIXEL, corner)[3] > 100
    assert page.evaluate(PIXEL, [0.9, 0.1])[3] == 0
    hold(page, 1.02)  # looked at as well, and no hand there
    assert page.evaluate(DRAWN) == 0


def test_the_clip_plays_over_its_span_again_and_again(page: Any) -> None:
    show(page, "kept")
    page.evaluate(
        f"window.seen = []; setInterval(() => window.seen.push({TIME}), 20);{VIDEO}.play()"
    )
    page.wait_for_timeout(4000)
    seen = page.evaluate("window.seen")
    assert min(seen) >= 0.99
    assert max(seen) <= 2.55
    turns = sum(after < before - 1.0 for before, after in pairwise(seen))
    assert turns >= 1


def test_a_step_is_one_frame(page: Any) -> None:
    show(page, "kept")
    hold(page, 1.52)
    for key, expected in ((".", 1.6), (".", 1.7), (",", 1.6)):
        page.keyboard.press(key)
        page.wait_for_timeout(400)
        shown = float(page.evaluate(TIME))
        assert expected <= shown < expected + 0.1


def test_what_the_browser_cannot_play_is_played_from_its_span(page: Any) -> None:
    show(page, "avi")
    assert page.evaluate(f"{VIDEO}.src").endswith("/span.webm")


def test_captions_are_text(page: Any) -> None:
    show(page, "kept")
    assert page.text_content(".clip-caption") == HOSTILE
    assert page.query_selector("img[src='x']") is None


def test_media_that_are_gone_are_told_on_the_page(page: Any) -> None:
    page.evaluate("location.hash = '#/clip/gone'")
    page.wait_for_selector(".clip-note:not(:empty)")
    assert "cannot be opened" in page.text_content(".clip-note")
    page.evaluate("location.hash = '#/clip/' + encodeURIComponent('<b>nobody')")
    page.wait_for_selector(".clip-error")
    assert "holds no clip" in page.text_content(".clip-error")
