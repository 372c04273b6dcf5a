"""The layout's own laws: who may import whom, and that nothing shadows Python's `tokenize`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import handloom
from tests.helpers.folders import CHECKOUT

MAY_IMPORT = {  # packages below `handloom`
    "tokenize": {"tokenize"},
    "stages": {"stages", "tokenize"},
    "pipeline": {"pipeline", "stages", "tokenize"},
    "train": {"train", "tokenize", "stages.tables", "stages.media"},
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
                inside = any(f"{rest}.".startswith(f"{p}.") for p in MAY_IMPORT[folder])
                assert inside, f"{path} imports {name}"


DOORS = {"stage", "rows"}
MORE_DOORS = {  # files of stage folders that others import too
    # three stages; what runs keep
    "ingest": {"videos", "uncut", "folder", "tars", "episodes", "card", "probes", "foresight"},
    "hands": {"activity"},  # by which `ingest` cuts
    "duplicates": {"fingerprints"},  # computed by `hands`, which has decoded the frames
    "pack": {"edit", "fidelity", "statistics", "stretches"},
    # no stages: the driver calls them, and the viewer
    "report": {"captions", "gallery", "page", "sample", "words"},
}
READERS = {"pack", "report"}  # of every stage


def test_a_stage_folder_is_entered_by_its_door() -> None:
    folders = {path.parent.name for path in (CHECKOUT / "stages").glob("*/stage.py")}
    assert {"hands", "duplicates", "caption", "episodes", "pack"} <= folders
    for path in source_files():
        own = path.parts[1] if path.parts[0] == "stages" else ""
        for name in imported(CHECKOUT / path):
            _, _, rest = name.partition("handloom.stages.")
            folder, _, file = rest.partition(".")
            if folder not in folders | MORE_DOORS.keys() or folder == own or own in READERS:
                continue
            doors = DOORS | MORE_DOORS.get(folder, set())
            assert file.split(".")[0] in doors, f"{path} imports {name}"


def source_files() -> list[Path]:
    """All Python files of the package, relative to the checkout."""
    roots = (CHECKOUT / name for name in ("handloom", *FOLDERS))
    paths = (path for root in roots for path in root.rglob("*.py"))  # does not follow the links
    return [path.relative_to(CHECKOUT) for path in paths]


def test_no_import_leads_back_to_its_module() -> None:
    files = {}
    for path in source_files():
        parts = path.with_suffix("").parts
        parts = parts if parts[0] == "handloom" else ("handloom", *parts)
        files[".".join(parts).removesuffix(".__init__")] = CHECKOUT / path
    graph = {
        module: {
            name if name in files else name.rpartition(".")[0]
            for name in imported(path)  # lazy and type-only imports too
        }
        & files.keys()
        for module, path in files.items()
    }
    for module in graph:
        assert module not in reached_from(module, graph), f"{module} imports itself in a circle"


def reached_from(module: str, graph: dict[str, set[str]]) -> set[str]:
    """The modules that a module imports, and those that they import, and so on."""
    reached: set[str] = set()
    waiting = [*graph[module]]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph[name]
    return reached


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
        "handloom.stages.tables.counts", "handloom.stages.tables.folds",
        "handloom.stages.tables.listing", "handloom.stages.tables.parts",
        "handloom.stages.tables.reading", "handloom.stages.tables.rows",
        "handloom.stages.tables.texts", "handloom.stages.tables.writing",
    }, stages  # fmt: skip
    assert heavy == "[]"


SOURCE = [*FOLDERS, "benchmarks", "examples"]


def sources() -> list[Path]:
    """What is written here, each file once: handloom/ holds links to the other folders."""
    own = sorted((CHECKOUT / "handloom").rglob("*.py"))  # does not follow the links
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
