"""Something-Something V2: 220,847 short clips of hands that act on objects, one file each.

The layout is that of the official download: the label files, as
`something-something-v2-{train,validation,test}.json` or as `labels/{train,validation,test}.json`,
and `20bn-something-something-v2/<id>.webm`. The clip is the whole file. Its text is the label, a
template filled with the objects' names ("holding potato next to box"); the template without its
brackets ("Holding something next to something") is kept as a further text.

An id counts once, in the strictest split that lists it: test before validation before train.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from handloom.errors import UserError, first_line
from handloom.stages.datasets.formats.json_reader import CleanJson
from handloom.stages.datasets.formats.json_stream import BOM
from handloom.stages.datasets.media import contents, files_below, unchanged
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "Something-Something V2 is free for academic research: register and accept the licence at "
    "https://www.qualcomm.com/developer/software/something-something-v-2-dataset, download the "
    "labels and all parts of the video archive (about 20 GB), and unpack it with "
    "`cat 20bn-something-something-v2-?? | tar zx`."
)
SPLITS = {"test": "test", "val": "validation", "train": "train"}  # strictest first
FOLDERS = ("", "labels", "annotations")
# V1 has other videos under the same numbers, as folders of images.
V1_NAME = "20bn-something-something-v1"
SKIPPED_FOLDERS = frozenset({V1_NAME, "frames", "rawframes"})
PACKED_PARTS = "20bn-something-something-v2-[0-9][0-9]*"  # the host wraps each part in a .zip

_FLAGS = {
    "pretended": re.compile(r"\bpretending\b", re.IGNORECASE),
    "failed_action": re.compile(
        r"\bfailing\b|\bbut missing\b|\bbut not\b|\bnothing happens\b", re.IGNORECASE
    ),
    # "Moving something towards the camera" moves the object; these move the camera.
    "camera_motion": re.compile(r"\bwith your camera\b|\bturning the camera\b", re.IGNORECASE),
    # "pulling it right out as you remove your hand" is not a direction.
    "mirror_matters": re.compile(r"\bleft\b|\bright\b(?! out)", re.IGNORECASE),
}


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the labelled videos; the label files are never held in memory whole."""
    files = _label_files(root)
    media = _find_media(root)
    seen: set[str] = set()
    for split, label_file in files.items():
        for row in _rows(label_file):
            video_id = str(row["id"]).strip()
            if video_id in seen:
                continue
            seen.add(video_id)
            path, clip_span = media.get(video_id, ""), span(row)
            reason = "benchmark_test" if split == "test" else "" if clip_span.text else "no_text"
            yield SourceVideo(
                video_id=video_id,
                media_path=path,
                split=split,
                version="2",
                spans=(clip_span,),
                reason=reason or ("" if path else "missing_file"),
            )


def annotations(root: Path) -> list[Path]:
    """The label files of the splits that are present."""
    return list(_label_files(root).values())


def span(row: dict[str, Any]) -> Span:
    """The span of a row of a label file; rows of the test split have no label."""
    label = str(row.get("label") or "").strip()
    template = str(row.get("template") or "").strip()
    # The words in brackets vary ("[Something]", "[number of]"): only the brackets are removed.
    bare = template.replace("[", "").replace("]", "")
    flags = [flag for flag, pattern in _FLAGS.items() if pattern.search(bare or label)]
    placeholders = row.get("placeholders")
    count = len(placeholders) if isinstance(placeholders, list) else 0
    if template and len(re.findall(r"\[[^\]]*\]", template)) != count:
        flags.append("placeholders_differ")
    return Span(
        start_s=0.0,
        end_s=TO_THE_END,
        text=label,
        other_texts=(bare,) if bare and bare.lower() != label.lower() else (),
        flags=tuple(flags),
    )


def _find_media(root: Path) -> dict[str, str]:
    """Paths by video id; where a copy has an .mp4 beside the original .webm, the .webm counts."""
    paths: dict[str, str] = {}
    for path in files_below(root, root, (".webm", ".mp4"), SKIPPED_FOLDERS):
        video_id, _, suffix = path.rpartition("/")[2].rpartition(".")
        if video_id not in paths or suffix.lower() == "webm":
            paths[video_id] = path
    packed = [] if paths else sorted([*root.glob(PACKED_PARTS), *root.glob(f"*/{PACKED_PARTS}")])
    if packed:
        raise UserError(
            f"{root} holds the packed archive ({packed[0].name} and so on) and no videos; unzip "
            f"its parts if they are .zip files, then unpack it with `cd {packed[0].parent} && cat "
            "20bn-something-something-v2-?? | tar zx`."
        )
    return paths


def _label_files(root: Path) -> dict[str, Path]:
    """Label files by split, the strictest split first."""
    files = {}
    for split, name in SPLITS.items():
        names = (f"something-something-v2-{name}.json", f"{name}.json")
        candidates = [root / folder / file for folder in FOLDERS for file in names]
        if path := next((path for path in candidates if path.is_file()), None):
            files[split] = path
    if "train" in files or "val" in files:
        return files
    if (
        root.name == V1_NAME
        or (root / V1_NAME).is_dir()
        or any(root.glob("something-something-v1-*"))
    ):
        raise UserError(
            f"{root} holds Something-Something V1, whose numbers name other videos than V2's; "
            f"handloom reads V2. {HOW_TO_GET}"
        )
    raise UserError(
        f"{root} holds {contents(root)}; expected something-something-v2-train.json or "
        f"labels/train.json below it. {HOW_TO_GET}"
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the objects of a JSON list, each with an `id`."""
    with path.open("rb") as file, unchanged(file, path):
        # ijson takes any JSON, and would yield nothing of an object.
        if file.read(64).removeprefix(BOM).lstrip()[:1] != b"[":
            raise UserError(f"{path} is not a JSON list of labels; download it again.")
        file.seek(0)
        rows = ijson.items(CleanJson(file, path), "item", use_float=True)
        try:
            for row in rows:
                if not isinstance(row, dict) or not str(row.get("id") or "").strip():
                    raise UserError(
                        f"{path} lists {str(row)[:60]!r}, expected objects with an id and a label; "
                        "this is not a label file of Something-Something V2."
                    )
                yield row
        except ijson.JSONError as error:
            raise UserError(
                f"{path} is not complete JSON ({first_line(error)}); download it again."
            ) from None


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="template",
    licence="ssv2-research-licence",
    terms="Academic research under the host's licence; no redistribution, no commercial use.",
    how_to_get=HOW_TO_GET,
)
