"""Who sees the page, and what the page may load."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from handloom.cli import main
from handloom.view.app import build
from handloom.view.command import listen
from tests.view.viewed import PORT, TOKEN, client, generated, opened


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> object:
    shown = opened(generated(tmp_path_factory.mktemp("run") / "out", clips=30))
    return build(shown, TOKEN, PORT)


def stranger(app: object, host: str = "127.0.0.1") -> TestClient:
    return TestClient(app, base_url=f"http://{host}:{PORT}", follow_redirects=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    ["/", "/api/run", "/api/clips", "/static/app.js", "/?token=guess", "/api/run?token=a-token"],
)
def test_nothing_is_shown_without_the_token(app: object, path: str) -> None:
    answer = stranger(app).get(path)
    assert answer.status_code == 403
    assert "open the address that it printed" in answer.text


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(app: object) -> None:
    answer = stranger(app).get(f"/?token={TOKEN}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"handloom-view-{PORT}" in cookie  # two viewers on one machine keep apart


def test_a_name_that_somebody_points_at_this_machine_is_refused(app: object) -> None:
    page = stranger(app, "rebound.example")
    page.cookies.set(f"handloom-view-{PORT}", TOKEN)
    assert page.get("/api/run").status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://127.0.0.1:{PORT}", 200),
        (None, 200),
        ("http://127.0.0.1:9999", 403),
        ("https://elsewhere.example", 403),
        ("null", 403),
    ],
)
def test_only_the_own_page_may_ask_for_changes(
    app: object, origin: str | None, status: int
) -> None:
    page = stranger(app)
    page.get(f"/?token={TOKEN}")
    headers = {"Origin": origin} if origin else {}
    assert page.post("/api/reload", headers=headers).status_code == status
    assert page.get("/api/run", headers=headers).status_code == 200


def test_pages_may_run_and_load_nothing_from_elsewhere(app: object) -> None:
    page = stranger(app)
    page.get(f"/?token={TOKEN}")
    for path in ("/", "/api/run", "/static/app.js", "/nothing"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fcli.py",
        "/static//etc/passwd",
        "/api/rows/..%2f..%2frun.yaml",
    ],
)
def test_paths_outside_are_refused(app: object, path: str) -> None:
    page = stranger(app)
    page.get(f"/?token={TOKEN}")
    assert page.get(path).status_code in (403, 404)


def test_a_folder_that_is_no_run_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path), "--no-browser"]) == 2
    assert "holds no tables" in capsys.readouterr().err


def test_a_port_in_use_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = generated(tmp_path / "out", clips=30)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(out), "--no-browser", "--port", str(port)]) == 2
    assert "cannot be listened on" in capsys.readouterr().err


def test_whoever_opened_the_address_sees_the_page(tmp_path: Path) -> None:
    page = client(opened(generated(tmp_path / "out", clips=30)))
    assert "<title>handloom</title>" in page.get("/").text
