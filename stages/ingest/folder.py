"""Ingest of any folder of videos: all that lie in it, or those that a list names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from handloom.errors import UserError
from handloom.files import file_digest
from handloom.stages.datasets import videos as adapter
from handloom.stages.datasets.source import SourceVideo
from handloom.stages.datasets.video_list import check_list, folder_list
from handloom.stages.datasets.videos import Survey
from handloom.stages.ingest.texts import storable_source
from handloom.stages.ingest.uncut import UncutIngest
from handloom.stages.stage import Stage


@dataclass(frozen=True)
class FolderIngest(UncutIngest):
    """Options of `ingest` for any folder of videos."""

    code_version: ClassVar[int] = 1

    dataset: str = "videos"
    """Name that the clips carry."""
    format: str = "videos"
    """The adapter that reads the folder."""
    list: Path | None = None
    """CSV, JSONL or Parquet file with the columns path, and if you like start, end (seconds), text,
    split; by default clips.csv, clips.jsonl or clips.parquet in the folder, or else all videos."""

    def __post_init__(self) -> None:
        if self.list is not None:  # workers have other present folders
            object.__setattr__(self, "list", self.list.absolute())

    def check(self) -> None:
        """Raise UserError for a list that is not there, and lengths that cannot be."""
        if self.list is not None:
            check_list(self.list)
        super().check()

    def survey(self) -> Sequence[str]:
        """Check the folder and its list before anything runs; lines on what is passed over.

        Raises:
            UserError: there is nothing to take in, or no text where captions are made of texts.
        """
        listed = self._list()
        found, usable = adapter.survey_of(self.data, listed)
        if self.needs_text and not found.texts:
            where = f"{listed} has no text" if listed else f"{self.data} has no list with texts"
            raise UserError(
                f"{where}, and no model is given to caption {usable:,} videos: name one with "
                "--caption.model (and --caption.url of its server), give a list with a column "
                "text (--ingest.list FILE), or keep empty captions with --caption.route none "
                "(docs/captions.md)."
            )
        return [*adapter.lines(found, listed)]

    def settings(self) -> dict[str, Any]:
        """The options that clips depend on, and the content of the list."""
        self.check()
        found = Stage.settings(self)
        listed = self._list()
        del found["frame_transform"], found["list"]  # its content counts, not where it lies
        if self.cut != "stride":
            del found["stride_s"]
        else:
            del found["sample_s"]
        return found | {
            "annotations": {"list": file_digest(listed)} if listed else {},
            "needs_text": self.needs_text,
        }

    def sources(self) -> Iterator[SourceVideo]:
        """Stream the folder's videos."""
        found = adapter.videos_of(self.data, self._list(), Survey())
        videos = map(storable_source, map(self._with_reasons, found))
        return filter(None, map(self.only, videos)) if self.only else videos

    def _list(self) -> Path | None:
        return self.list or folder_list(self.data)
