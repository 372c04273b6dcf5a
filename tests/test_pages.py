"""The pages' own laws: what they link to and name is there, and their imports work."""

import re
from pathlib import Path

import pytest

from tests.helpers.folders import CHECKOUT

PAGES = sorted(
    [*(CHECKOUT / "docs").glob("*.md"), *CHECKOUT.glob("*.md"), CHECKOUT / "examples/README.md"]
)
FOLDERS = "handloom|pipeline|stages|tokenize|train|tests|docs|benchmarks|deploy|examples"
A_PATH = re.compile(rf"(?<![\w/.<>-])(?:{FOLDERS})/[\w./*-]*[\w/*]")
AN_IMPORT = re.compile(r"^from handloom[\w.]* import [\w, ]+$", re.MULTILINE)
# Files that a page tells its reader to write.
TO_BE_WRITTEN = {"stages/close_up.py", "stages/miniatures/NAME.py"}


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_links_lead_to_something(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    gone = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert gone == []


def test_paths_are_there(page: Path) -> None:
    paths = set(A_PATH.findall(page.read_text())) - TO_BE_WRITTEN
    assert [path for path in sorted(paths) if not list(CHECKOUT.glob(path))] == []


def test_imports_work(page: Path) -> None:
    for statement in AN_IMPORT.findall(page.read_text()):
        exec(statement, {})


def test_the_laws_find_paths_links_and_imports() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(A_PATH.findall(text)) > 20
    assert len(AN_IMPORT.findall(text)) > 5
