"""Lay a folder of videos out as an Ego4D download, to try the pipeline on footage at hand.

    python tests/helpers/lay_out_as_ego4d.py VIDEOS OUT
    make curate DATASET=ego4d DATA=OUT OUT=runs/trial ARGS=--ingest.follow-links

Every file below VIDEOS becomes a video of its own, narrated every three seconds. A narration says
what NARRATIONS knows of the file's name, or that something is handled. Files that cannot be opened
are laid out too: the pipeline must cope with them.
"""

import csv
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from handloom.errors import MediaError
from handloom.stages.media.video import probe

EVERY_S = 3.0
NARRATIONS = {
    "stir_pan": "#C C stirs the food in the pan with a spoon ",
    "shelf_1": "#C C puts a jar into the cabinet",
    "shelf_2": "#C C takes a bottle from the shelf",
    "table_case": "#C C picks up the black case from the table",
    "table_sweep": "#unsure #C C moves things on the table",
    "kitchen_counter": "#C C washes the counter",
    "blocks_topdown": "#C C moves the wooden letter blocks",
    "cups_shuffle": "#C C shuffles the red cups",
    "pour_coffee": "#C C pours coffee into the mug and puts down the kettle",
    "knead_dough": "#C C kneads the dough on the board",
    "slice_loaf": "#O A man X slices a loaf of bread",
    "flip_pancake": "#C C flips the pancake",
    "bottles": "#C C takes a bottle from the table",
}


def narration(name: str) -> str:
    """What is said of a file."""
    return next((text for key, text in NARRATIONS.items() if key in name), "#C C handles something")


def main(videos: Path, out: Path) -> None:
    """Write ego4d.json, narration.json and links to the files."""
    home = out / "v2"
    (home / "annotations").mkdir(parents=True)
    (home / "full_scale").mkdir()
    listed: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    names: list[tuple[str, str]] = []
    files = [
        p for p in sorted(videos.rglob("*")) if p.is_file() and p.suffix not in (".csv", ".md")
    ]
    for path in files:
        uid = str(uuid.uuid5(uuid.NAMESPACE_URL, str(path.relative_to(videos))))
        try:
            seconds = probe(path).duration_s
        except MediaError:
            seconds = EVERY_S
        (home / f"full_scale/{uid}.mp4").symlink_to(path.absolute())
        listed.append({"video_uid": uid, "duration_sec": seconds, "split_fho": None})
        rows = [
            {"timestamp_sec": t * EVERY_S, "narration_text": narration(path.name)}
            for t in range(max(1, int(seconds / EVERY_S)))
        ]
        told[uid] = {"narration_pass_1": {"narrations": rows}, "status": "complete"}
        names.append((uid, str(path.relative_to(videos))))
    (home / "ego4d.json").write_text(json.dumps({"version": "2.0", "videos": listed}))
    (home / "annotations/narration.json").write_text(json.dumps(told))
    with (out / "names.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video_uid", "file"), *names])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
