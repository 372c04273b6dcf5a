"""What `--help` shows: every command describes itself, and every option says what it is."""

import re
from collections.abc import Iterator

import pytest

from handloom.cli import COMMANDS, main
from handloom.pipeline.recipes import RECIPES

PAGES = [
    *(name.split() for name in COMMANDS),
    *([command, dataset] for command in ("curate", "plan") for dataset in RECIPES),
]
# Options and operands stand two columns in, their texts further; boxes are drawn on some terminals.
HEAD = re.compile(r"  (--?[a-z].*?|[A-Z\[{][A-Z\[\]{}|,. ]*?)(?:  +(\S.*))?")


def page_of(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The help of a command, one column wide."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def options(page: str) -> Iterator[tuple[str, str]]:
    """Every option of a page with its text, less what tyro says of its default."""
    found: list[list[str]] = []
    for line in page.replace("│", " ").splitlines():
        if head := HEAD.fullmatch(line.rstrip()):
            found.append([head[1], head[2] or ""])
        elif line.startswith("   ") and found:
            found[-1].append(line)
    for name, *text in found:
        yield name, re.sub(r"\((default: .*|required)\)$", "", " ".join(" ".join(text).split()))


def test_texts_are_found_in_a_page() -> None:
    page = (
        "╭─ options ───╮\n"
        "│ A group. ──── │\n"
        "│ PATH       A folder with more. (required)          │\n"
        "│ -h, --help     show this │\n"
        "│ --out {None}|PATH     │\n"
        "│       Where it goes, and    │\n"
        "│       more. (default: None) │\n"
        "│ --threads INT      (default: 2) │\n"
    )
    found = {name: text.strip() for name, text in options(page)}
    assert found == {
        "PATH": "A folder with more.",
        "-h, --help": "show this",
        "--out {None}|PATH": "Where it goes, and more.",
        "--threads INT": "",
    }


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_every_option_says_what_it_is(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(options(page_of(words, capsys, monkeypatch)))
    del found["-h, --help"]
    assert found
    assert [name for name, text in found.items() if not text.strip().endswith(".")] == []


def test_every_command_describes_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {}
    for name in COMMANDS:
        usage, description, *_ = page_of(name.split(), capsys, monkeypatch).split("\n\n")
        assert usage.startswith(f"usage: handloom {name} ")
        said[name] = " ".join(description.split())
    assert all(text.endswith(".") and not text.startswith("╭") for text in said.values()), said
    assert len(set(said.values())) == len(COMMANDS)


def test_the_options_are_those_of_the_dataset_that_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    robots = page_of(["curate", "rt1"], capsys, monkeypatch)
    people = page_of(["curate", "ssv2"], capsys, monkeypatch)
    assert "--episodes.hz" in robots
    assert "--ingest.relabel" in robots
    assert "--hands." not in robots
    assert "--hands.shots" in people
    assert "--episodes." not in people
    assert "curate rt1 --help" in page_of(["curate"], capsys, monkeypatch)


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0), (["train"], 0)])
def test_a_list_names_the_commands(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert (f"  {name} " in shown) == (words != ["train"] or name.startswith("train "))
