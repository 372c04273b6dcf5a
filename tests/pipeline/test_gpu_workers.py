"""Which workers get GPUs: Ray's logical ones are counted like real ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from handloom.pipeline.dag import pool_size
from handloom.pipeline.recipes import Run


@pytest.mark.parametrize(
    ("run", "gpus", "expected"),
    [
        (Run(), 0, {"workers": None}),
        (Run(), 2, {"workers": None, "gpus": 1.0, "cores": 4}),
        (Run(gpu_share=0.25), 2, {"workers": None, "gpus": 0.25, "cores": 2}),
        (Run(gpu_share=0.1), 1, {"workers": None, "gpus": 0.1, "cores": 1}),
        (Run(gpu_share=0), 2, {"workers": None}),
        (Run(workers=1), 2, {"workers": 1, "gpus": 1.0, "cores": 4}),
        (Run(workers=3), 0, {"workers": 3}),
    ],
)
def test_workers_and_what_each_takes(run: Run, gpus: int, expected: dict[str, float]) -> None:
    assert pool_size(run, True, {"CPU": 16.0, "GPU": float(gpus)}) == expected


def test_stages_that_want_no_gpu_get_none() -> None:
    assert pool_size(Run(), False, {"CPU": 16.0, "GPU": 8.0}) == {"workers": None}


SCRIPT = """
import sys
from pathlib import Path
import ray
from handloom.errors import RunError
from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row
from handloom.stages.tokens import Tokens

class Told(Stage):
    name, row_type = "told", Row
    def __call__(self, word):
        yield Row(clip_id=word, reason=f"{self.device} {self.threads}")

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
table = Table(Path(sys.argv[1]) / "told", "f" * 64)
batches = [Batch("00", (w,), ((w,),), 1) for w in "abcd"]
options = {"workers": 2, "clip_timeout_s": 60.0, "gpus": 0.5, "cores": 1}
list(Pool(Told(), table, {}, **options).run(iter(batches)))
print(sorted({row.reason for row in table.read(Row)}))
try:
    list(Pool(Tokens(), table, {}, **options).run(iter(batches)))
except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_worker_on_a_logical_gpu_is_told_so_and_tokens_refuse_one_without_cuda(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told, refused = done.stdout.splitlines()[-2:]
    assert told == "['cuda 1']"
    assert refused.startswith("Ray gave this worker of `tokens` a GPU, but torch ")
    assert "--run.gpu-share 0" in refused
