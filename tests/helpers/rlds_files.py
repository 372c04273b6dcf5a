"""Small datasets in the layout of RLDS, with features of every kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from handloom.stages.datasets import rlds
from handloom.stages.datasets.source import EpisodeOptions, SourceEpisode
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    encode_example,
    features_json,
    flatten,
    frame_record,
    step_flags,
)
from handloom.stages.miniatures.robots.views import jpeg

T = 4
OPTIONS = EpisodeOptions(hz=10.0)
STEPS: dict[str, Any] = {
    "observation": {
        "image": FeatureSpec(shape=(8, 8, 3), kind="image", encoding="jpeg"),
        "hand_image": FeatureSpec(shape=(8, 8, 3), kind="image", encoding="jpeg"),
        "depth": FeatureSpec(shape=(8, 8, 1), kind="image", encoding="png"),
        "state": FeatureSpec("float64", (2,)),
    },
    "action": {"turn": FeatureSpec(shape=(2,)), "grip": FeatureSpec("bool")},
    "is_first": FeatureSpec("bool"),
    "is_last": FeatureSpec("bool"),
    "is_terminal": FeatureSpec("bool"),
}
EPISODE: dict[str, Any] = {"language_instruction": FeatureSpec(kind="text")}


def step_values(number: int = 0, steps: int = T) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    pictures = [jpeg(p) for p in rng.integers(0, 255, (2 * steps, 8, 8, 3), np.uint8)]
    counted = np.arange(steps, dtype=np.float32)
    return {
        "observation": {
            "image": pictures[:steps],
            "hand_image": pictures[steps:],
            "depth": [b"\x89PNG"] * steps,
            "state": np.stack([counted, counted + number], axis=1),
        },
        "action": {"turn": np.stack([counted, -counted], axis=1), "grip": counted % 2 == 0},
        **step_flags(steps),
    }


def payload(number: int = 0, seed: int = 0, /, **changed: Any) -> bytes:
    values = flatten({"steps": step_values(number), "language_instruction": [b"open it"]})
    return encode_example(values | changed, np.random.default_rng(seed))


def lay_out(
    folder: Path, shards: dict[str, list[bytes]], steps: Any = None, episode: Any = None
) -> Path:
    """A dataset folder without dataset_info.json, which is optional."""
    folder.mkdir(parents=True, exist_ok=True)
    told = features_json(STEPS if steps is None else steps, EPISODE if episode is None else episode)
    (folder / "features.json").write_text(json.dumps(told))
    for name, payloads in shards.items():
        (folder / name).write_bytes(b"".join(map(frame_record, payloads)))
    return folder


def listing(root: Path, options: EpisodeOptions = OPTIONS) -> list[SourceEpisode]:
    return list(rlds.episodes(root, options))


def only(root: Path, options: EpisodeOptions = OPTIONS) -> Any:
    (source,) = listing(root, options)
    return rlds.load(root, source, options)
