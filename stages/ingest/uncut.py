"""Ingest of videos in which nobody has said what happens when: they are cut here, on the workers.

A cut needs the file's pictures: shots, and when hands are in them. Both are read from a sparse
sample, two frames a second; `hands` searches the clips properly afterwards.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from handloom.errors import UserError
from handloom.stages.datasets.source import TO_THE_END, SourceVideo, Span
from handloom.stages.datasets.videos import Uncut
from handloom.stages.hands import activity
from handloom.stages.ingest import cutting
from handloom.stages.ingest.cut_file import cut_file
from handloom.stages.ingest.cuts import Cuts
from handloom.stages.ingest.cutting import Piece
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.video import MediaFacts
from handloom.stages.tables.rows import Clip

NO_TEXT = "no_text"
WHOLE_FILE = "text_of_whole_file"


@dataclass(frozen=True)
class UncutIngest(Ingest):
    """Options of `ingest` for videos without times."""

    code_version: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    """Whether clips without a text are rejected; set by `for_captions`."""

    cut: Literal["hands", "shots", "stride"] = "hands"
    """How videos without times are cut. hands: by shots, then where hands come and go, and where
    they are slow; shots: by shots alone; stride: every `stride_s` seconds, at no cost."""
    stride_s: float = 4.0
    """Length of a clip where the cut is `stride`, seconds."""
    sample_s: float = 0.5
    """Distance of the frames that are sampled to find shots and hands, seconds."""

    def check(self) -> None:
        """Raise UserError for lengths that cannot be."""
        for name, value in (("stride-s", self.stride_s), ("sample-s", self.sample_s)):
            if value < 0.1:
                raise UserError(f"--ingest.{name} is {value}, expected at least 0.1.")
        if self.max_seconds < 2 * cutting.LEAST_S and self.cut != "stride":
            raise UserError(
                f"--ingest.max-seconds is {self.max_seconds}, expected at least "
                f"{2 * cutting.LEAST_S:g} to cut by {self.cut}; or cut with --ingest.cut stride."
            )

    def for_captions(self, from_texts: bool) -> Self:
        """The same stage for a run whose captions are the clips' own texts, or are not."""
        return self._placed(needs_text=from_texts)

    def survey(self) -> Sequence[str]:
        """Check the folder before anything runs; lines on what is passed over.

        Raises:
            UserError: captions would be made of texts that there are not.
        """
        self.check()
        if self.needs_text:
            raise UserError(
                f"{self.dataset} has no texts, and no model is given to caption its clips: name "
                "one with --caption.model (and --caption.url of its server), or keep empty "
                "captions with --caption.route none (docs/captions.md)."
            )
        return []

    def settings(self) -> dict[str, Any]:
        """The options that clips depend on."""
        self.check()
        found = super().settings()
        del found["sample_s" if self.cut == "stride" else "stride_s"]
        return found | {"needs_text": self.needs_text}

    def models(self) -> dict[str, str]:
        """SHA-256 of the landmarker, where it decides."""
        return activity.models() if self.cut == "hands" else {}

    def setup(self) -> None:
        """Load the landmarker on this worker."""
        import cv2

        cv2.setNumThreads(1)  # a worker has one core
        if self.cut == "hands":
            activity.load()

    def __call__(self, video: SourceVideo) -> Iterator[Clip]:
        """Probe a video's file, cut it where no times are given, and check its spans."""
        if not isinstance(video.raw, Uncut) or video.reason:
            yield from super().__call__(video)
            return
        facts, uncut = self.facts(video), video.raw
        pieces = self._pieces(video, facts)
        is_whole = uncut.parts == 1 and sum(not piece.reason for piece in pieces) == 1
        flags = () if is_whole or not uncut.text else (WHOLE_FILE,)
        for piece in pieces:
            span = Span(
                piece.start_s, piece.end_s, uncut.text, uncut.other_texts, flags, piece.reason
            )
            if piece.error:
                yield self._clip(video, span, "", error=piece.error, status="failed")
            else:
                yield self._fit(video, span, facts)

    def failed(self, error: str, video: SourceVideo) -> Iterator[Clip]:
        """The file cannot be read; where it was to be cut, that is one failed row."""
        if not video.spans:
            video = replace(video, spans=(Span(0.0, TO_THE_END, video.raw.text),))
        yield from super().failed(error, video)

    def knows(self, video: SourceVideo) -> bool:
        """Whether a video's clips follow without opening its file."""
        if not super().knows(video) or not isinstance(video.raw, Uncut):
            return super().knows(video)
        return self.cut == "stride" or self._cuts.get(self.data, video) is not None

    def flush(self) -> None:
        """Write down what was probed and cut."""
        super().flush()
        self._cuts.flush()

    def _with_reasons(self, video: SourceVideo) -> SourceVideo:
        """The video with its texts checked, where captions are made of them."""
        if not self.needs_text or video.reason:
            return video
        if isinstance(video.raw, Uncut):
            if video.raw.text:
                return video
            span = Span(0.0, TO_THE_END, "")
            return replace(video, raw=None, spans=(span,), reason=NO_TEXT)
        spans = (s if s.text or s.reason else replace(s, reason=NO_TEXT) for s in video.spans)
        return replace(video, spans=tuple(spans))

    @property
    def _cuts(self) -> Cuts:
        facts = (self.code_version, self.cut, self.sample_s, self.max_seconds, self.models())
        setting = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return Cuts.of(self.cache, setting)

    def _pieces(self, video: SourceVideo, facts: MediaFacts) -> Sequence[Piece]:
        """The pieces of a unit: of its share of the file's time."""
        uncut, seconds = video.raw, facts.duration_s - facts.start_s
        start_s = facts.start_s + seconds * uncut.part / uncut.parts
        end_s = facts.start_s + seconds * (uncut.part + 1) / uncut.parts
        if self.cut == "stride":
            return cutting.strides(start_s, end_s, self.stride_s)
        pieces = self._cuts.get(self.data, video)
        if pieces is None:
            path, by_hands = self.data / video.media_path, self.cut == "hands"
            pieces = cut_file(path, start_s, end_s, by_hands, self.sample_s, self.max_seconds)
            self._cuts.put(self.data, video, pieces)
        return pieces
