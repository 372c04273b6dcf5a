"""The benchmark for GPUs runs at a toy size where there is none, and says so otherwise."""

import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.folders import CHECKOUT

PARTS = ("mfu", "stage2", "fsdp", "bf16", "generate", "act")


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "bench_gpu.py"), *args]
    path = f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)


@pytest.mark.slow
def test_every_part_runs_at_a_toy_size() -> None:
    done = bench("--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for part in PARTS:
        assert f"{part} took" in done.stdout
    ends = {
        words[0]: float(words[-1].rstrip("%"))
        for words in map(str.split, done.stdout.splitlines())
        if words and words[0] in ("float32", "TF32", "bfloat16")
    }
    assert ends["float32"] == ends["TF32"] == 0  # a CPU has no TF32
    assert 0 < abs(ends["bfloat16"]) < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_sentence() -> None:
    done = bench()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bench_gpu.py needs a GPU, and torch")
    assert done.stderr.count("\n") == 1
