"""The layout's own laws: who may import whom, and that nothing shadows Python's `tokenize`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import handloom
from tests.helpers.folders import CHECKOUT

MAY_IMPORT = {
    "tokenize": {"tokenize"},
    "stages": {"stages", "tokenize"},
    "pipeline": {"pipeline", "stages", "tokenize"},
    "train": {"train", "tokenize"},
}
FOLDERS = sorted(MAY_IMPORT)
OPEN_TO_ALL = {"errors", "files", "__version__"}  # of the package itself


def imported(path: Path) -> set[str]:
    """The modules a file imports anywhere, `handloom.stages.hands.stage` and the like."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_follow_the_arrows(folder: str) -> None:
    files = list((CHECKOUT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            package, _, rest = name.partition(".")
            assert package not in {"pipeline", "stages", "train"}, f"{path}: bare import {name}"
            target = rest.split(".")[0]
            if package == "handloom" and target in FOLDERS:
                assert target in MAY_IMPORT[folder], f"{path} imports {name}"


def test_stages_know_no_ray() -> None:
    for path in [*(CHECKOUT / "stages").rglob("*.py"), *(CHECKOUT / "tokenize").rglob("*.py")]:
        assert not {n for n in imported(path) if n.split(".")[0] == "ray"}, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_at_the_root_is_a_regular_package(folder: str) -> None:
    assert not (CHECKOUT / folder / "__init__.py").exists()


def test_tokenize_is_pythons_own_at_the_root() -> None:
    code = "import tokenize, inspect; print(tokenize.__file__); tokenize.generate_tokens"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert str(CHECKOUT) not in run.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_holds_a_link_to_each_folder(folder: str) -> None:
    assert Path(handloom.__file__).parent == CHECKOUT / "handloom"
    assert (CHECKOUT / "handloom" / folder).resolve() == CHECKOUT / folder


def test_help_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, contextlib, handloom.cli as c\n"
        "c.main(['--help'])\n"
        "with contextlib.suppress(SystemExit): c.main(['curate', '--help'])\n"
        "print('heavy:', sorted({'torch', 'ray', 'mediapipe', 'diffusers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert run.stdout.endswith("heavy: []\n"), run.stdout[-200:] + run.stderr


def test_workers_import_no_stage_but_their_own() -> None:
    code = (
        "import sys, handloom.pipeline.pool, handloom.pipeline.progress\n"
        "print([name for name in sys.modules if name.startswith('handloom.stages')])\n"
        "print(sorted({'pandas', 'scipy', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    stages, heavy = run.stdout.splitlines()
    assert set(ast.literal_eval(stages)) == {
        "handloom.stages", "handloom.stages.stage", "handloom.stages.tables",
        "handloom.stages.tables.parts", "handloom.stages.tables.rows",
    }, stages  # fmt: skip
    assert heavy == "[]"


SOURCE = [*FOLDERS, "benchmarks"]


def sources() -> list[Path]:
    """What is written here, each file once: handloom/ holds links to the other folders."""
    own = sorted((CHECKOUT / "handloom").glob("*.py"))
    return own + [path for folder in SOURCE for path in sorted((CHECKOUT / folder).rglob("*.py"))]


def test_no_file_has_more_than_400_lines() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in sources()}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_no_function_has_more_than_60_lines() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long == []
