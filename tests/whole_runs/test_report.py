"""The report of a whole run says what the run's tables say."""

import html
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.pipeline.configuration import recorded_job
from handloom.stages.hands.rows import HandRow
from handloom.stages.report.gallery import SHOWN
from handloom.stages.select import Select, SelectRow
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def finished(
    miniature: Path, tiny_vqgan: Path, here: Cli, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run in which `select` rejects clips for several reasons."""
    out = tmp_path_factory.mktemp("run") / "out"
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    strict = ["--select.min-hand-share", 0.6, "--select.min-sharpness", 0.75]
    run = here("curate", "sample", "--data", miniature, "--out", out, *small, *strict)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def sections(out: Path) -> dict[str, str]:
    """The page's HTML by heading."""
    text = (out / "report/index.html").read_text()
    parts = re.split(r"<h2>(.*?)</h2>", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def cards(section: str) -> list[str]:
    return re.findall(r"(<figure.*?)</figure>", section, re.DOTALL)


def test_every_reason_has_its_clips_and_their_number(finished: Path) -> None:
    found, told = sections(finished), funnel.count(open_tables(finished))
    reasons = 0
    for stage, count in told.stages.items():
        for reason, total in count.rejected.items():
            section = found[f"Rejected: {reason} ({stage})"]
            shown = min(total, SHOWN)
            assert len(cards(section)) == shown
            most = f"{shown} of {total} clips" if shown < total else f"All {total} clips"
            assert ("One clip." if total == 1 else most) in section
            reasons += 1
        if count.failed:
            assert len(cards(found[f"Failed: {stage}"])) == min(count.failed, SHOWN)
    assert reasons >= 5
    assert len(cards(found["Kept"])) == min(told.kept, SHOWN)


def test_numbers_of_rejected_cards_are_those_of_the_tables(finished: Path) -> None:
    tables, select = open_tables(finished), recorded_job(finished).stages["select"]
    assert isinstance(select, Select)
    clips = {clip.clip_id: clip for clip in tables["ingest"].read(Clip)}
    found, checked = sections(finished), 0
    for criterion in select.criteria():
        for card in cards(found.get(f"Rejected: {criterion.reason} (select)", "")):
            clip = clips[re.findall(r'id="(\w+)"', card)[0]]
            place = f"{Path(clip.media_path).name} {clip.start_s:.1f} to {clip.end_s:.1f} s"
            assert place in html.unescape(card)
            row = tables["select"].get(SelectRow, clip.bucket, clip.clip_id)
            assert row.reason == criterion.reason
            limit = criterion.at_least if criterion.at_least is not None else criterion.at_most
            said = f"{criterion.score} {getattr(row, criterion.score):.3f}, kept with "
            assert said in card
            assert f"{limit:g} · " in card.split(said)[1]
            hits = round(row.hand_share * row.searched_frames)
            assert f"hands in {hits} of {row.searched_frames} searched frames" in card
            search = tables["hands"].get(HandRow, clip.bucket, clip.clip_id)
            pairs = zip(search.times_s, search.detector_ran, strict=True)
            times = ", ".join(f"{time_s:.2f}" for time_s, ran in pairs if ran)
            assert f'alt="searched at {times} s"' in card
            checked += 1
    assert checked >= 3


def test_hits_and_looks_of_kept_cards_are_those_of_the_tables(finished: Path) -> None:
    tables = open_tables(finished)
    rows = [row for row in tables["select"].read(SelectRow) if row.status == "ok"]
    expected = sorted(
        f"hands in {round(r.hand_share * r.searched_frames)} of {r.searched_frames} searched frames"
        for r in rows
    )
    shown = re.findall(r"hands in \d+ of \d+ searched frames", sections(finished)["Kept"])
    assert sorted(shown) == expected
    assert expected


def test_the_present_threshold_keeps_what_was_kept(finished: Path) -> None:
    kept = funnel.count(open_tables(finished)).stages["select"].kept
    marked = re.findall(
        r"<mark>(\S+)</mark>(?:<br>|: )(\d+) clips", sections(finished)["Thresholds"]
    )
    assert ("0.6", str(kept)) in marked
    assert {clips for _, clips in marked} == {str(kept)}


def test_a_second_report_is_the_same_page(finished: Path, here: Cli) -> None:
    path = finished / "report/index.html"
    before = path.read_bytes()
    path.unlink()
    assert here("report", finished).returncode == 0
    assert path.read_bytes() == before


def test_every_link_leads_somewhere_and_no_anchor_is_there_twice(finished: Path) -> None:
    text = (finished / "report/index.html").read_text()
    anchors = re.findall(r' id="([^"]+)"', text)
    assert len(anchors) == len(set(anchors))
    told = funnel.count(open_tables(finished))
    for stage, count in told.stages.items():
        for reason in count.rejected:
            assert f'href="#{stage}-{reason}"' in text
            assert f"{stage}-{reason}" in anchors
    links = set(re.findall(r'href="#([^"]+)"', text))
    clips = {one for one in links if re.fullmatch(r"[0-9a-f]{20}", one)}
    assert links - clips <= set(anchors)
    assert set(anchors) & clips


def test_kept_and_rejected_clips_come_before_scores(finished: Path) -> None:
    titles = list(sections(finished))
    rejected = [title for title in titles if title.startswith(("Rejected", "Failed"))]
    assert rejected
    assert titles.index("Kept") < titles.index(rejected[0])
    assert titles.index(rejected[-1]) < titles.index("Thresholds") < titles.index("Scores")


def test_scores_that_reject_nothing_are_folded_away(finished: Path) -> None:
    found = sections(finished)["Scores"]
    shown, hidden = re.split(r"<summary>\d+ scores that reject nothing here</summary>", found)
    counts = re.findall(r"; ([\d,]+) of [\d,]+ clips do not meet it", shown)
    assert counts
    assert "0" not in counts
    assert set(re.findall(r"; ([\d,]+) of [\d,]+ clips do not meet it", hidden)) <= {"0"}
