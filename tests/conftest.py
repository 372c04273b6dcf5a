"""Shared fixtures: a small miniature Ego4D, a tiny VQGAN, Ray, and the command line.

`cli` runs a command in a process of its own, with a Ray of its own if it curates; `here` runs it in
this process, on a Ray that is started once, and is what most tests of whole runs want.

Plain functions that several test files call lie in `tests/helpers`.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from handloom.cli import main
from handloom.copies import copies
from handloom.listings import forget_listings
from handloom.places import place
from handloom.stages.miniatures import ego4d
from handloom.stores import filesystem
from tests.helpers.folders import CHECKOUT
from tests.helpers.miniatures import once
from tests.helpers.s3_server import BUCKET, ENVIRONMENT, S3Server, s3_server

# A busy machine stalls for longer than a law takes.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

Cli = Callable[..., subprocess.CompletedProcess[str]]

# Their tests share one Ray, in one process; the longest lane, so it begins first.
RAY_LANE = ("whole_runs/", "pipeline/test_adding", "pipeline/test_costs", "pipeline/test_crew",
            "pipeline/test_pool", "pipeline/test_shuffling", "pipeline/test_cluster",
            "pipeline/test_folding")  # fmt: skip


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file share its fixtures and stay in one process; so do all that share Ray."""
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if file.removeprefix("tests/").startswith(RAY_LANE) else file

    return Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clusters of a test's own first, then the shared Ray; what starts Ray or a program is long."""
    for item in items:
        if {"cli", "here", "shared_ray", "own_ray"} & fixtures(item):
            item.add_marker("long")
    items.sort(key=lambda item: "shared_ray" not in fixtures(item))
    items.sort(key=lambda item: "own_ray" not in fixtures(item))


def fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of about a dozen videos, three of which are kept; tests copy it to change it."""
    return once(tmp_path_factory, "ego4d", lambda out: ego4d.write(out, clips=14, seed=5))


@pytest.fixture(scope="session")
def tiny_vqgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers VQModel with random weights, 64 codes a frame, fast enough for many runs."""

    def write(folder: Path) -> None:
        import torch
        from diffusers import VQModel

        torch.manual_seed(0)
        VQModel(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            num_vq_embeddings=256,
            vq_embed_dim=4,
            latent_channels=4,
        ).save_pretrained(folder)

    return once(tmp_path_factory, "tiny_vqgan", write)


@pytest.fixture(scope="session")
def frames_thwc() -> NDArray[np.uint8]:
    """Three smooth pictures in colour, uint8 [3, 64, 64, 3]."""
    import torch
    from torch.nn.functional import interpolate

    coarse = torch.from_numpy(np.random.default_rng(0).random((3, 3, 9, 9), np.float32))
    smooth = interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
    pixels: NDArray[np.uint8] = (smooth.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    return pixels


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[S3Server]:
    """An S3 server on loopback, which the environment names while the tests run."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            patch.setenv(name, value)
        filesystem("s3").mkdir(BUCKET)
        yield server


@pytest.fixture
def s3(
    s3_endpoint: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Server]:
    """The same with its counts at zero and listings forgotten; copies lie in the test's folder."""
    monkeypatch.setenv("HANDLOOM_CACHE", str(tmp_path / "copies"))
    copies.cache_clear()
    forget_listings()
    s3_endpoint.requests.clear()
    s3_endpoint.sent.clear()
    yield s3_endpoint
    copies.cache_clear()


@pytest.fixture
def folder(s3: S3Server, tmp_path: Path) -> Path:
    """A folder of the test's own in the bucket."""
    return place(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `python -m handloom` with some arguments from the checkout; output is captured."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "handloom", *map(str, args)]
        return subprocess.run(
            command, cwd=CHECKOUT, env=os.environ | env, capture_output=True, text=True, timeout=900
        )

    return run


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A Ray of two cores in this process, for all tests that want one."""
    from handloom.pipeline.session import local_ray

    before = dict(os.environ)
    with local_ray(num_cpus=2):
        os.environ.clear()
        os.environ.update(before)  # workers have got theirs; programs of other tests shall not
        yield


@pytest.fixture
def own_ray() -> None:
    """For tests that start a cluster in this process: they come before the shared Ray."""


@pytest.fixture(scope="session")
def here(shared_ray: None) -> Cli:
    """Run `handloom` with some arguments in this process, on the shared Ray."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(map(str, args)))
        return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Copy a folder into the test's own, keeping modification times."""

    def copy(folder: Path, name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
