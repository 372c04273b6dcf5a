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
OPEN_TO_ALL = {"errors", "files", "svg", "unpickle", "__version__"}  # of the package itself


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
