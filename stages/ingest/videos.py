"""Ingest: from a dataset's annotations and files to the clips table."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from handloom.errors import MediaError
from handloom.files import file_digest
from handloom.stages.datasets.catalog import video_adapter
from handloom.stages.datasets.source import (
    TO_THE_END,
    Adapter,
    CutRule,
    SourceVideo,
    Span,
    refuse_outside,
)
from handloom.stages.ingest.probes import Probes
from handloom.stages.ingest.spans import once_each
from handloom.stages.ingest.texts import storable_row, storable_source
from handloom.stages.media.container import MAX_PIXELS
from handloom.stages.media.frame_transform import FrameOptions
from handloom.stages.media.video import MediaFacts
from handloom.stages.outside import is_outside, module_file
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import bucket_of
from handloom.stages.tables.rows import Clip, Row, clip_id
from handloom.stages.tables.texts import storable_name

OWN_LINKS = "if you made the link yourself, pass --ingest.follow-links"
MEDIA_COLUMNS = ("duration_s", "fps", "width", "height", "codec")
WIDEST_PIXEL = 8.0  # anamorphic film has 2; a wrong header stretches a picture to megapixels
SHORT_FILE_S = 1.0  # a file this much shorter than its annotations say was not downloaded whole


@dataclass(frozen=True)
class Ingest(Stage, FrameOptions):
    """Options of `ingest`."""

    name: ClassVar[str] = "ingest"
    row_type: ClassVar[type[Row]] = Clip
    code_version: ClassVar[int] = 3

    dataset: str = "ego4d"
    """Name that the clips carry."""
    format: str = "ego4d"
    """The adapter that reads the folder."""
    licence: str = ""
    """Licence class that the clips carry; empty means the adapter's."""
    min_seconds: float = 1.0
    """Shorter spans are rejected; lines of speech are merged until they are this long."""
    max_seconds: float = 8.0
    """A narration's span, or a clip made of speech, is no longer than this."""
    follow_links: bool = False
    """Read files that links in the data folder lead to, wherever they are; only for your own."""
    max_pixels: int = MAX_PIXELS
    """Files with larger pictures fail, at most 8192 x 8192; such a picture takes 200 MB."""
    val_percent: float = 5.0
    """Share of the videos without an official split that goes to val, by a hash of the video id."""

    @property
    def adapter(self) -> Adapter:
        """The adapter of the dataset's format."""
        return video_adapter(self.format)

    @property
    def licence_class(self) -> str:
        """What every clip carries."""
        return self.licence or self.adapter.licence

    def settings(self) -> dict[str, Any]:
        """The options and the content of the annotation files."""
        found = super().settings() | inputs(self.format, self.adapter, self.data)
        del found["frame_transform"]  # clips are the same whatever their pictures look like
        return found

    def picture_settings(self) -> dict[str, Any]:
        """What a clip's pictures depend on beside its row: nothing."""
        return {}

    def sources(self) -> Iterator[SourceVideo]:
        """Stream the dataset's annotated videos."""
        found = map(storable_source, self.adapter.videos(self.data, self._rule()))
        return filter(None, map(self.only, found)) if self.only else found

    def __call__(self, video: SourceVideo) -> Iterator[Clip]:
        """Probe a video's file and turn its spans into clips."""
        spans = self._spans(video)
        if video.reason:
            yield from (self._clip(video, s, s.reason or video.reason) for s in spans)
            return
        facts = self.facts(video)
        for span in spans:
            yield self._fit(video, span, facts)

    def facts(self, video: SourceVideo) -> MediaFacts:
        """What a video's file is.

        Raises:
            MediaError: it lies outside the data folder, cannot be read, or has too large pictures.
        """
        if not self.follow_links:
            refuse_outside(self.data, video.media_path, OWN_LINKS)
        facts = Probes.of(self.cache).probe(
            self.data, video.media_path, bucket_of(video.bucket_key)
        )
        if facts.width * facts.height > self.max_pixels:
            raise MediaError(
                f"{video.media_path}: pictures of {facts.width} x {facts.height}, expected at most "
                f"{self.max_pixels:,} pixels (--ingest.max-pixels)"
            )
        if not 1 / WIDEST_PIXEL <= facts.pixel_aspect <= WIDEST_PIXEL:
            raise MediaError(
                f"{video.media_path}: pixels {facts.pixel_aspect:g} times as wide as high, "
                f"expected at most {WIDEST_PIXEL:g}: set another aspect with FFmpeg's setsar"
            )
        return facts

    def knows(self, video: SourceVideo) -> bool:
        """Whether a video's clips follow without opening its file.

        Raises:
            MediaError: there is no such file.
        """
        bucket = bucket_of(video.bucket_key)
        return Probes.of(self.cache).knows(self.data, video.media_path, bucket)

    def failed(self, error: str, video: SourceVideo) -> Iterator[Clip]:
        """The file cannot be read: its usable spans fail, the others stay rejected."""
        try:
            spans = self._spans(video)
        except Exception:  # the annotation is what cannot be read; `error` says why
            spans = (Span(0.0, TO_THE_END, ""),)
        for span in spans:
            failure = {} if span.reason else {"error": error, "status": "failed"}
            yield self._clip(video, span, span.reason, **failure)

    def flush(self) -> None:
        """Write down what was probed."""
        Probes.of(self.cache).flush()

    def _rule(self) -> CutRule:
        return CutRule(min_s=self.min_seconds, max_s=self.max_seconds)

    def _spans(self, video: SourceVideo) -> tuple[Span, ...]:
        cut = self.adapter.cut if video.raw is not None else None
        spans = cut(video, self._rule()) if cut else video.spans
        return once_each(spans, lambda span: self._id(video, span))

    def _id(self, video: SourceVideo, span: Span) -> str:
        return clip_id(self.dataset, video.unit, span.start_s, span.end_s)

    def _fit(self, video: SourceVideo, span: Span, facts: MediaFacts) -> Clip:
        """Clamp a span to the pictures; what lies beyond them is rejected, or failed if cut off."""
        start_s, annotated_end_s = span.start_s, span.end_s
        if not math.isfinite(start_s) or math.isnan(annotated_end_s):
            return self._clip(video, replace(span, start_s=0.0, end_s=0.0), "no_time")
        if facts.duration_s <= video.whole_if_shorter_s:  # the file holds nothing but the span
            start_s, annotated_end_s = 0.0, TO_THE_END
        is_before = annotated_end_s <= facts.start_s
        start_s, end_s = max(start_s, facts.start_s), min(annotated_end_s, facts.duration_s)
        media = {name: getattr(facts, name) for name in MEDIA_COLUMNS}
        reason = span.reason or ("before_start" if is_before else "")
        if not reason and start_s >= facts.duration_s:
            if video.expected_s - facts.duration_s > SHORT_FILE_S:
                error = (
                    f"{video.media_path} lasts {facts.duration_s:.1f} s, the annotations say "
                    f"{video.expected_s:.1f} s: download it again"
                )
                return self._clip(video, span, "", error=error, status="failed", **media)
            reason = "past_end"
        if not reason and end_s - start_s < self.min_seconds:
            reason = "too_short"
        if end_s > start_s:
            clamped_s = 0.0 if annotated_end_s == TO_THE_END else annotated_end_s - end_s
            media |= {"start_s": start_s, "end_s": end_s, "clamped_s": clamped_s}
        return self._clip(video, span, reason, **media)

    def _clip(self, video: SourceVideo, span: Span, reason: str, **values: Any) -> Clip:
        row = {
            "clip_id": self._id(video, span),
            "status": "rejected" if reason else "ok",
            "reason": reason,
            "dataset": self.dataset,
            "version": video.version,
            "split": video.split or hashed_split(video.video_id, self.val_percent),
            "licence": self.licence_class,
            "bucket": bucket_of(video.bucket_key),
            "unit": video.unit,
            "video_id": video.video_id,
            "start_s": span.start_s,
            "end_s": span.end_s,
            "text": span.text,
            "text_kind": self.adapter.text_kind,
            "other_texts": list(span.other_texts),
            "text_flags": list(span.flags),
            "annotation_id": span.annotation_id,
            "media_path": video.media_path,
        }
        return Clip(**storable_row(row | values))


def hashed_split(video_id: str, val_percent: float) -> str:
    """`train` or `val`, for a video whose dataset has no official split."""
    digest = hashlib.blake2b(storable_name(f"split/{video_id}").encode(), digest_size=4).digest()
    return "val" if int.from_bytes(digest, "big") / 2**32 < val_percent / 100 else "train"


def inputs(name: str, adapter: Any, data: Path) -> dict[str, Any]:
    """The files that decide what is ingested, as hashes: annotations by path, and an adapter of the
    user's own, which has no version."""
    found = {p.relative_to(data).as_posix(): file_digest(p) for p in adapter.annotations(data)}
    own = {"adapter": file_digest(module_file(name))} if is_outside(name) else {}
    return {"annotations": found} | own
