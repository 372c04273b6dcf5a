"""The page in a real browser: filter, move a slider, mark, share an address, a hostile caption."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale_tables import write_run
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.overrides import Mark, read_marks
from handloom.stages.tables.parts import open_tables
from handloom.view import run
from tests.view.viewed import BUCKETS, CLIPS, generated, opened, served

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium here")]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one bucket has a hostile caption."""
    out = generated(tmp_path_factory.mktemp("run") / "out")
    table = open_tables(out)["caption"]
    rows = [replace(row, caption=HOSTILE) for row in table.read(CaptionRow, "00")]
    for path in table.parts("00"):
        path.unlink()
    table.write("00", "0", rows, CaptionRow)
    return out


@pytest.fixture(scope="module")
def address(out: Path) -> Iterator[str]:
    with served(opened(out)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that was opened by the printed address; its scripts must raise nothing."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    one, errors = context.new_page(), []
    one.on("pageerror", lambda error: errors.append(str(error)))
    one.goto(address)
    count(one, CLIPS)
    yield one
    assert errors == []
    context.close()


def count(page: Any, clips: int | None = None) -> int:
    """The number of clips that the bar tells, once it is so many."""
    words = page.locator(".count")
    pattern = rf"^{clips:,} clips" if clips is not None else r"^[\d,]+ clips"
    sync_api.expect(words).to_have_text(re.compile(pattern))
    return int(words.inner_text().split()[0].replace(",", ""))


def choose(page: Any, facet: str, word: str) -> int:
    """Choose a word of a facet; returns the number that stands beside it."""
    words = page.locator(f'.facet[data-name="{facet}"]')
    button = words.locator(f'.word[data-word="{word}"]')
    sync_api.expect(words).to_be_visible()
    if not button.count():
        words.locator(".more").click()
    told = int(button.locator("small").inner_text().replace(",", ""))
    button.click()
    sync_api.expect(button).to_have_attribute("aria-pressed", "true")  # counted anew
    return told


def test_filters_list_what_they_count_and_an_address_shows_the_same_to_others(
    page: Any, browser: Any, address: str
) -> None:
    told = choose(page, "status", "rejected")
    count(page, told)
    told = choose(page, "reason", "stereo")
    count(page, told)
    assert "reason=stereo" in page.url
    assert page.locator(".card .end").first.inner_text() == "stereo"
    other = browser.new_context().new_page()
    other.goto(address + "#" + page.url.partition("#")[2])
    count(other, told)
    page.go_back()
    count(page)
    assert "reason" not in page.url


def test_a_slider_counts_at_once_and_the_moved_clips_can_be_listed(page: Any) -> None:
    page.get_by_role("tab", name="Thresholds").click()
    slider = page.locator('.slider[data-name="min_sharpness"] input[type="range"]')
    slider.fill("70")
    flags = page.locator(".flags")
    sync_api.expect(flags).to_have_text("--select.min-sharpness 0.7")
    rejected = page.locator(".summary tr.less td").first
    told = int(rejected.inner_text().replace(",", ""))
    assert told > 0
    page.get_by_role("button", name="newly rejected").click()
    count(page, told)
    page.get_by_role("button", name="Reset").click()
    count(page, CLIPS)


def test_a_clip_is_marked_by_keys_and_the_mark_is_in_the_file(page: Any, out: Path) -> None:
    kept = count(page, choose(page, "status", "kept"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    card = page.locator('.card[aria-selected="true"][data-place="2"]')
    clip_id = card.get_attribute("href").partition("#/clip/")[2].partition("?")[0]
    page.keyboard.press("m")
    page.locator("#dialog textarea").fill("a mirror")
    page.get_by_role("button", name="drop").click()
    sync_api.expect(card.locator(".mark")).to_have_text("drop")
    assert read_marks(out / "marks.csv") == {clip_id: Mark("drop", "a mirror")}
    told = choose(page, "mark", "drop")
    assert told == 1 < kept
    count(page, 1)


def test_new_rows_come_when_they_are_asked_for(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CHECKED_AFTER_S", 0.0)
    out = generated(tmp_path / "out", clips=200)
    with served(opened(out)) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        count(page, 200)
        write_run(out, 400, codes=4, seed=1, buckets=BUCKETS)
        button = page.get_by_role("button", name="New rows: reload")
        sync_api.expect(button).to_be_visible(timeout=15_000)
        button.click()
        count(page, 600)
        sync_api.expect(button).to_be_hidden()


def test_captions_are_text_whatever_they_say(page: Any) -> None:
    page.locator("#search").fill("onerror")
    sync_api.expect(page.locator(".card .text").first).to_have_text(HOSTILE)
    assert page.title() == "out · handloom"
    assert page.locator(".card .text img, .card script").count() == 0


def test_only_cards_on_screen_exist_and_the_last_clip_is_reached(page: Any) -> None:
    page.keyboard.press("Shift+G")
    last = page.locator(f'.card[data-place="{CLIPS - 1}"]')
    sync_api.expect(last).to_be_in_viewport()
    assert page.locator(".card").count() < 80
    sync_api.expect(last).to_have_attribute("href", re.compile("clip/"))  # its piece has come
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".crumbs code")).to_have_text(re.compile(r"^[0-9a-f]{20}$"))
    page.keyboard.press("Escape")
    sync_api.expect(last).to_be_in_viewport()


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, width: int) -> None:
    page = browser.new_context(viewport={"width": width, "height": 700}).new_page()
    page.goto(address)
    count(page, CLIPS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('grid').scrollWidth") <= width
