"""A run on cores and a GPU beside its slowest stage, with stages that cost a stated time.

    python benchmarks/bench_overlap.py [--clips 110] [--hands-s 1.5] [--tokens-s 2.5]

A local cluster of one node with two cores and a logical GPU, so that `hands` has one worker and
`tokens` another; each clip of a miniature Ego4D costs them so many seconds of sleep beside their
work. Prints how long the workers were busy, and the run's time over that of the slower one and over
the sum, which is what the run would take one stage after the other. docs/decisions.md quotes it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import ray

from handloom.pipeline import dag
from handloom.pipeline.output import claimed
from handloom.stages.miniatures import ego4d
from handloom.stages.tables.parts import read_marker
from tests.helpers import costly_stages
from tests.helpers.clusters import cluster, small
from tests.helpers.costly_stages import CostlyTokens, costly_job, noted


def main() -> None:
    """Make a run and print its times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=110)
    parser.add_argument("--hands-s", type=float, default=1.5)
    parser.add_argument("--tokens-s", type=float, default=2.5)
    options = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sys.modules[costly_stages.__name__])
    with tempfile.TemporaryDirectory() as name, cluster() as nodes:
        data, out = Path(name) / "ego4d", Path(name) / "run"
        ego4d.write(data, clips=options.clips)
        nodes.add_node(**small(2), num_gpus=1)
        job = costly_job(
            data, out, CostlyTokens(frames=1, seconds=options.tokens_s), options.hands_s
        )
        began = time.monotonic()
        with claimed(job):
            dag.curate(job)
        seconds = time.monotonic() - began
        clips = noted(out.with_suffix(".log"))
        wasted = read_marker(out / "tables/tokens")["rejected_after_all"]
    busy = {stage: sum(done - start for start, done in times) for stage, times in clips.items()}
    told = ", ".join(f"{stage} {value:.0f} s" for stage, value in busy.items())
    print(
        f"busy: {told}; run {seconds:.0f} s, {seconds / max(busy.values()):.2f} of the slower, "
        f"{seconds / sum(busy.values()):.2f} of the sum; "
        f"{wasted} of {len(clips['tokens'])} clips encoded for nothing"
    )


if __name__ == "__main__":
    main()
