"""All that the tables say of one clip, as JSON: texts, hands, duplicates, verdicts, provenance."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from handloom.errors import MediaError, UserError
from handloom.stages.caption.stage import instruction
from handloom.stages.hands.rows import CONFIDENT
from handloom.stages.report.captions import FLAGS
from handloom.stages.report.words import verb_and_noun
from handloom.stages.select import Select
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, EpisodePlace
from handloom.view.clip_codes import ClipCodes
from handloom.view.clip_media import ClipMedia, shown_fps, span_end_s
from handloom.view.clip_rows import Values

HAND_COLUMNS = (
    "status", "times_s", "detector_ran", "confidence", "detections", "cuts_s", "shot_start_s",
    "shot_end_s", "picture_xyxy",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "source", "flags", "model", "answers", "answer_flags", "agreement")
PROVENANCE = (
    "dataset", "version", "licence", "split", "video_id", "annotation_id", "unit", "media_path",
    "width", "height", "fps", "codec", "duration_s", "clamped_s",
)  # fmt: skip
NO_SCORES = frozenset({"attempts", "hz"})
SCORELESS = frozenset({"ingest", "hands", "duplicates", "caption", "tokens"})
"""Stages whose numbers are shown elsewhere, but for those that have a limit."""


def detail(media: ClipMedia, codes: ClipCodes, clip_id: str) -> Values:
    """What the page of a clip shows, less pictures and curves.

    Raises:
        Unknown: the run holds no such clip.
    """
    clip, stages = media.clip(clip_id), list(verdicts(media, clip_id))
    end_s = span_end_s(clip)
    return {
        "clip_id": clip_id,
        "start_s": clip.start_s,
        "end_s": end_s,
        "media": playable(media, clip),
        "verdict": verdict(stages),
        "stages": stages,
        "texts": texts(media, clip),
        "hands": hands(media, clip_id),
        "codes": encoded(media, codes, clip),
        "duplicates": duplicates(media, clip_id),
        "provenance": provenance(clip),
    }


def playable(media: ClipMedia, clip: Clip) -> Values:
    """How a browser may play the clip: its own file's type, or the reason why there is nothing."""
    found: Values = {
        "source": "",
        "fps": shown_fps(clip),
        "picture": [0, 0, 1, 1],
        "views": [],
        "error": "",
    }
    try:
        if isinstance(clip, EpisodePlace):
            return found | {"views": clip.views}
        return found | {"source": media.source_type(clip), "picture": media.picture(clip)}
    except (MediaError, UserError, OSError) as error:
        return found | {"error": str(error)}


def verdict(stages: Sequence[Values]) -> Values:
    """Where the clip ended: {status, stage, reason}; failures count before rejections."""
    for status in ("failed", "rejected", "waiting"):
        ended = next((one for one in stages if one["status"] == status), None)
        if ended:
            return {"status": status, "stage": ended["name"], "reason": ended["reason"]}
    return {"status": "kept", "stage": "", "reason": ""}


def verdicts(media: ClipMedia, clip_id: str) -> Iterator[Values]:
    """What each stage says of the clip, in the order of the data flow.

    A clip that did not pass a stage's gate has the status `not_reached` there; one that has no row
    yet is `waiting`.
    """
    rows, passed = media.rows.rows(clip_id), {"": True}
    for name, table in media.rows.run.tables.items():
        row = rows.get(name)
        came = passed.get(table.gate, False)
        status = "not_reached" if not came else row["status"] if row else "waiting"
        passed[name] = status == "ok"
        said = row if row and came else {}
        yield {
            "name": name,
            "status": status,
            "reason": said.get("reason") or "",
            "error": said.get("error") or "",
            "attempts": said.get("attempts") or 0,
            "scores": list(scores(media.rows.stage(name), said)),
        }


def scores(stage: Stage | None, row: Values) -> Iterator[Values]:
    """The numbers in a stage's row, each with the limit that it is compared with, if any."""
    if isinstance(stage, Select):
        for one in stage.criteria():
            if one.score in row:
                yield _score(one.score, one.meaning, row[one.score], one.at_least, one.at_most)
        return
    options = {f.name for f in fields(stage)} if stage else set()
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or name in NO_SCORES:
            continue
        option = next((one for one in (name, f"max_{name}") if one in options), "")
        if stage and stage.name in SCORELESS and not option:
            continue
        yield _score(name, "", value, None, getattr(stage, option) if option else None)


def _score(
    name: str, meaning: str, value: float, least: float | None, most: float | None
) -> Values:
    fails = (least is not None and value < least) or (most is not None and value > most)
    limits = {"at_least": least, "at_most": most, "fails": fails}
    return {"name": name, "meaning": meaning, "value": value} | limits


def texts(media: ClipMedia, clip: Clip) -> Values:
    """The caption and where it comes from, the dataset's own texts, and doubts about either."""
    row = media.rows.row("caption", clip.clip_id, CAPTION_COLUMNS) or {}
    verb, noun = verb_and_noun(instruction(clip.text, clip.text_kind))
    answers = zip(row.get("answers") or (), row.get("answer_flags") or (), strict=True)
    stage = media.rows.stage("caption")
    return {
        "caption": row.get("caption") or "",
        "source": row.get("source") or "",
        "model": row.get("model") or "",
        "route": getattr(stage, "route", ""),
        "flags": _doubts(row.get("flags")),
        "agreement": row.get("agreement"),
        "answers": [{"text": text, "flags": _doubts(flags.split())} for text, flags in answers],
        "own": clip.text,
        "kind": clip.text_kind,
        "own_flags": _doubts(clip.text_flags),
        "others": list(clip.other_texts),
        "verb": verb,
        "object": noun,
    }


def _doubts(flags: Sequence[str] | None) -> list[Values]:
    return [{"name": name, "meaning": FLAGS.get(name, "")} for name in flags or ()]


def hands(media: ClipMedia, clip_id: str) -> Values | None:
    """The frames that were looked at and the hands in them; None for a clip without any search."""
    row = media.rows.row("hands", clip_id, HAND_COLUMNS)
    if row is None or row["status"] == "failed":
        return None
    select = media.rows.stage("select")
    least = select.min_confidence if isinstance(select, Select) else CONFIDENT
    frames = [
        {"time_s": time_s, "searched": searched, "hands": []}
        for time_s, searched in zip(row["times_s"], row["detector_ran"], strict=True)
    ]
    for hand in row["detections"]:
        frames[hand["frame"]]["hands"].append(_hand(hand, least))
    kept = ("cuts_s", "shot_start_s", "shot_end_s", "picture_xyxy")
    return {"frames": frames, "min_confidence": least} | {name: row[name] for name in kept}


def _hand(hand: Values, least: float) -> Values:
    """A hand; 21 landmarks as x y pairs, relative to width and height."""
    points = hand["landmarks_xyz"] or []
    return {
        "side": hand["handedness"],
        "confidence": hand["confidence"],
        "counts": hand["confidence"] >= least,
        "box": [round(value, 4) for value in hand["box_xyxy"]],
        "points": [round(value, 4) for i, value in enumerate(points) if i % 3 < 2],
    }


def encoded(media: ClipMedia, codes: ClipCodes, clip: Clip) -> Values | None:
    """Which frames were encoded; None for a clip without codes."""
    found = codes.of(clip.clip_id)
    if found is None:
        return None
    views, _, rows, columns = found.codes_vtij.shape
    names = clip.views if isinstance(clip, EpisodePlace) else [""] * views
    return {"views": names[:views], "times_s": found.times_s, "grid": [rows, columns]}


def duplicates(media: ClipMedia, clip_id: str) -> list[Values]:
    """Clips that show nearly the same, the most similar first; `here` says that the run has it."""
    row = media.rows.row("duplicates", clip_id, ["matches"]) or {}
    return [
        match | {"here": media.rows.knows(match["clip_id"])} for match in row.get("matches") or ()
    ]


def provenance(clip: Clip) -> list[tuple[str, Any]]:
    """Where the clip comes from: names and values, without those that are empty."""
    found = [(name, getattr(clip, name)) for name in PROVENANCE]
    if isinstance(clip, EpisodePlace):
        found += [("steps", clip.steps), ("place", ", ".join(map(str, clip.place)))]
        facts = (fact.partition(": ") for fact in clip.facts)
        found += [(name, value) for name, _, value in facts if not name.endswith("_names")]
    said = {"", 0} | ({clip.video_id} if clip.unit == clip.video_id else set())
    return [(name, value) for name, value in found if value not in said or name == "video_id"]
