"""Costs of captions are printed before a run and after it, and the report shows the answers."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.pipeline.costs import Prices, Usage, costs, estimate, read_prices
from handloom.pipeline.recipes import CurateConfig, row_stages
from handloom.stages.caption.requests import Answer
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import Caption
from handloom.stages.graph import gates
from handloom.stages.report import captions as report_captions
from handloom.stages.tables.parts import Table, open_tables, read_marker
from handloom.stages.tables.rows import Clip, Row
from tests.helpers.caption_server import MODEL, fake_server, tally

Cli = Callable[..., subprocess.CompletedProcess[str]]

PRICES = f"""
currency: ducats
models:
  {MODEL}: {{million_prompt_tokens: 2.0, million_completion_tokens: 10.0, gpu_hour: 3.6,
             requests_per_gpu_second: 0.5}}
  default: {{gpu_hour: 1.0, tokens_per_picture: 100}}
"""


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


def test_costs_are_rates_times_usage(prices: Path) -> None:
    parts = costs(Usage(1_000, 5_000_000, 200_000), read_prices(prices, MODEL))
    assert parts == [
        "0.56 GPU-hours at 0.5 requests/s a GPU = 2.00 ducats", "12.00 ducats for tokens"
    ]  # fmt: skip
    assert costs(Usage(1_000, 5_000_000, 200_000), Prices()) == []


def test_tokens_grow_with_pictures_and_their_area(prices: Path) -> None:
    def expected(**options: int) -> float:
        stage = Caption(route="auto", model="m", **options)  # type: ignore[arg-type]
        return estimate(stage, 1_000, Prices()).prompt_tokens

    few, many = expected(frames=4), expected(frames=8)
    small = expected(frames=4, resolution=224)
    words = few - (many - few)  # without any picture
    assert few - words == pytest.approx(4 * (small - words))
    default = read_prices(prices, "another")
    stage = Caption(route="auto", model="m", frames=4)
    # 5 % are asked twice; each picture counts as the file says
    assert estimate(stage, 1_000, default).prompt_tokens == pytest.approx(words + 1_050 * 400)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("models: 3", "expected YAML with `models:`"),
        ("- 1", "expected YAML with `models:`"),
        ("models: {other: {gpu_hour: 1}}", "tells no price of 'm', only of other"),
        ("models: {m: {gpu_hour: cheap}}", "gpu_hour: 'cheap', expected numbers"),
        ("models: {m: {gpu_hours: 1}}", "gpu_hours: 1, expected numbers named gpu_hour"),
    ],
)
def test_a_price_file_that_cannot_be_used_is_refused(
    content: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_prices(path, "m")


def clip(number: int, text: str) -> Clip:
    return Clip(
        clip_id=f"{number:020d}", dataset="d", version="1", split="train", licence="none",
        bucket="00", unit="v", video_id="v", start_s=0.0, end_s=2.0, text=text,
        text_kind="narration",
    )  # fmt: skip


def tables_of(folder: Path, clips: list[Clip], rows: list[CaptionRow]) -> dict[str, Table]:
    """The tables of a run in which every clip came to its caption."""
    flow = gates(row_stages(CurateConfig()))
    tables = {name: Table(folder / name, "f" * 64, gate) for name, gate in flow.items()}
    for name, table in tables.items():
        if name not in ("ingest", "caption"):
            table.write("00", "a", [Row(clip_id=one.clip_id) for one in clips], Row)
    tables["ingest"].write("00", "a", clips, Clip)
    tables["caption"].write("00", "a", rows, CaptionRow)
    return tables


def test_the_report_counts_flags_and_shows_what_was_said(tmp_path: Path) -> None:
    stage = Caption(route="server", model=MODEL, url="http://a/v1")
    good = Answer("Fold the <b>red</b> towel.", True, 100, 10, 1.0)
    bad = Answer("I'm sorry, I cannot do that.", True, 100, 10, 3.0)
    clips = [clip(n, f"#C C folds the towel {n}") for n in range(4)]
    said = [[good], [bad, good], [bad, bad], [good]]
    rows = [stage._row(one, answers) for one, answers in zip(clips, said, strict=True)]
    tables = tables_of(tmp_path, clips, rows)
    found = report_captions.tally(tables)
    assert (found.sources["server"], found.sources["source"], found.fell_back) == (3, 1, 1)
    assert (found.answer_flags["refusal"], found.flags["refusal"]) == (3, 1)
    assert (found.asked, found.requests) == (4, 6)
    line = report_captions.effort_line(found, seconds=2.0)
    assert line.startswith("6 requests for 4 clips, 3.0 requests/s and 330 tokens/s; 600 prompt")
    page = report_captions.section(tables, report_captions.tally(tables))
    assert "I&#x27;m sorry, I cannot do that." in page
    assert "&lt;b&gt;red&lt;/b&gt; towel" in page
    assert "<b>" not in page
    assert "#C C folds the towel 3" in page


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with fake_server(latency_s=0.02) as url:
        yield url


def test_a_run_with_a_server(
    miniature: Path, server: str, here: Cli, tiny_vqgan: Path, tmp_path: Path, prices: Path
) -> None:
    places = ["ego4d", "--data", miniature, "--out", tmp_path / "out"]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 1]
    served = ["--caption.route", "server", "--caption.url", server, "--caption.model", MODEL]
    priced = [*served, "--caption.prices", prices]
    planned = here("plan", *places, *priced)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"caption: at most \d+ clips to ask fake-vlm about", planned.stdout)
    assert re.search(r"at most .* GPU-hours at 0.5 requests/s .* ducats for tokens", planned.stdout)
    run = here("curate", *places, *small, *priced)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = list(open_tables(tmp_path / "out")["caption"].read(CaptionRow))
    requests = sum(len(row.answers) for row in rows)
    assert requests == sum(map(len, tally(server)["told"].values())) > 0
    line = rf"caption: {requests} requests for {len(rows)} clips, .* tokens/s"
    assert re.search(line, run.stdout)
    assert "ducats for tokens" in run.stdout
    assert {row.source for row in rows} <= {"server", "source"}
    again = here("plan", *places, *priced)
    assert "caption: 0 clips to ask fake-vlm about, 0 requests" in again.stdout
    assert read_marker(tmp_path / "out/tables/caption")["finished"]
