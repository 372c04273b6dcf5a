"""A run on cores and a GPU beside its slowest stage, with stages that cost a stated time.

    python benchmarks/bench_overlap.py [--clips 110] [--hands-s 1.5] [--tokens-s 2.5]

A local cluster of one node with two cores and a logical GPU; each clip of a miniature Ego4D costs
`hands` and `tokens` so many seconds of sleep beside their work. The run is made with the GPU, where
encoding goes ahead of `select`, and without, where it waits for it. Prints the time of both, of
their stages, and the ratio of the run to its slowest stage. docs/decisions.md quotes it.
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
from tests.helpers.costly_stages import CostlyTokens, costly_job


def measure(folder: Path, data: Path, gpu_share: float, options: argparse.Namespace) -> None:
    """Make one run and print its times."""
    out = folder / f"{gpu_share:g}"
    tokens = CostlyTokens(frames=1, seconds=options.tokens_s)
    job = costly_job(data, out, tokens, options.hands_s, gpu_share=gpu_share)
    started = time.monotonic()
    with claimed(job):
        dag.curate(job)
    seconds = time.monotonic() - started
    markers = {name: read_marker(out / "tables" / name) for name in ("hands", "tokens")}
    # Of its work alone: a stage that goes ahead also waits.
    busy = {
        "hands": markers["hands"]["computed"] * options.hands_s,
        "tokens": markers["tokens"]["computed"] * options.tokens_s,
    }
    wasted = markers["tokens"].get("rejected_after_all", 0)
    told = ", ".join(f"{name} {value:.0f} s" for name, value in busy.items())
    print(
        f"{'ahead' if gpu_share else 'behind'}: run {seconds:.0f} s; sleep of {told}; "
        f"run / slowest {seconds / max(busy.values()):.2f}; encoded for nothing: {wasted} of "
        f"{markers['tokens']['computed']} clips",
        flush=True,
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=110)
    parser.add_argument("--hands-s", type=float, default=1.5)
    parser.add_argument("--tokens-s", type=float, default=2.5)
    options = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sys.modules[costly_stages.__name__])
    with tempfile.TemporaryDirectory() as folder, cluster() as nodes:
        data = Path(folder) / "ego4d"
        ego4d.write(data, clips=options.clips)
        nodes.add_node(**small(2), num_gpus=1)
        for gpu_share in (1.0, 0.0):
            measure(Path(folder), data, gpu_share, options)


if __name__ == "__main__":
    main()
