"""Ingest: from a dataset's annotations and files to the clips table."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from handloom.stages.base import Stage
from handloom.stages.datasets import ego4d
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span
from handloom.stages.records import Clip, Row, clip_id
from handloom.stages.video import MediaFacts, probe

ADAPTERS: dict[str, Adapter] = {"ego4d": ego4d.ADAPTER}

SHORT_FILE_S = 1.0  # a file this much shorter than its annotations say was not downloaded whole


@dataclass(frozen=True)
class Ingest(Stage):
    """Options of `ingest`."""

    name: ClassVar[str] = "ingest"
    row_type: ClassVar[type[Row]] = Clip

    dataset: str = "ego4d"
    """Name that the clips carry."""
    format: str = "ego4d"
    """The adapter that reads the folder."""
    licence: str = ""
    """Licence class that the clips carry; empty means the adapter's."""
    min_seconds: float = 1.0
    """Shorter spans are rejected."""
    max_seconds: float = 8.0
    """A narration's span ends at the next one, and after this long at the latest."""
    val_percent: float = 5.0
    """Share of the videos without an official split that goes to val, by a hash of the video id."""

    @property
    def adapter(self) -> Adapter:
        """The adapter of the dataset's format."""
        return ADAPTERS[self.format]

    def settings(self) -> dict[str, Any]:
        """The options and the content of the annotation files."""
        files = {p.name: file_digest(p) for p in self.adapter.annotations(self.data)}
        return super().settings() | {"annotations": files}

    def source(self) -> Iterator[SourceVideo]:
        """Stream the dataset's annotated videos."""
        return self.adapter.videos(self.data, CutRule(max_s=self.max_seconds))

    def __call__(self, video: SourceVideo) -> Iterator[Clip]:
        """Probe a video's file and turn its spans into clips."""
        if video.reason:
            yield from (self._clip(video, s, s.reason or video.reason) for s in video.spans)
            return
        facts = probe(self.data / video.media_path)
        for span in video.spans:
            yield self._fit(video, span, facts)

    def failed(self, error: str, video: SourceVideo) -> Iterator[Clip]:
        """The file cannot be read: its usable spans fail, the others stay rejected."""
        for span in video.spans:
            failure = {} if span.reason else {"error": error, "status": "failed"}
            yield self._clip(video, span, span.reason, **failure)

    def _fit(self, video: SourceVideo, span: Span, facts: MediaFacts) -> Clip:
        """Clamp a span to the file; what lies beyond its end is rejected, or failed if cut off."""
        end_s = min(span.end_s, facts.duration_s)
        media = asdict(facts)
        del media["rotation"], media["pixel_aspect"]
        reason = span.reason
        if not reason and span.start_s >= facts.duration_s:
            if video.expected_s - facts.duration_s > SHORT_FILE_S:
                error = (
                    f"{video.media_path} lasts {facts.duration_s:.1f} s, the annotations say "
                    f"{video.expected_s:.1f} s: download it again"
                )
                return self._clip(video, span, "", error=error, status="failed", **media)
            reason = "past_end"
        if not reason and end_s - span.start_s < self.min_seconds:
            reason = "too_short"
        if end_s > span.start_s:
            media |= {"end_s": end_s, "clamped_s": span.end_s - end_s}
        return self._clip(video, span, reason, **media)

    def _clip(self, video: SourceVideo, span: Span, reason: str, **values: Any) -> Clip:
        row = {
            "clip_id": clip_id(self.dataset, video.video_id, span.start_s, span.end_s),
            "status": "rejected" if reason else "ok",
            "reason": reason,
            "dataset": self.dataset,
            "version": video.version,
            "split": video.split or self._hashed_split(video.video_id),
            "licence": self.licence or self.adapter.licence,
            "video_id": video.video_id,
            "start_s": span.start_s,
            "end_s": span.end_s,
            "text": span.text,
            "text_kind": self.adapter.text_kind,
            "other_texts": list(span.other_texts),
            "text_flags": list(span.flags),
            "media_path": video.media_path,
        }
        return Clip(**(row | values))

    def _hashed_split(self, video_id: str) -> str:
        digest = hashlib.blake2b(f"split/{video_id}".encode(), digest_size=4).digest()
        return "val" if int.from_bytes(digest, "big") / 2**32 < self.val_percent / 100 else "train"


def file_digest(path: Path) -> str:
    """Content of a file as a hash; of a large file its size and 16 evenly spaced megabytes."""
    size, megabyte = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= 64 * megabyte:
            digest.update(file.read())
        else:
            for i in range(16):
                file.seek((size - megabyte) * i // 15)
                digest.update(file.read(megabyte))
    return digest.hexdigest()
