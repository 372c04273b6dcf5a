"""The frames of a clip that were encoded, and what their codes decode to."""

import io
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import MediaError, UserError
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.tables.parts import read_marker
from handloom.stages.tables.rows import Clip, EpisodePlace
from handloom.stages.tokens import Encoding
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.view.clip_media import ClipMedia
from handloom.view.run import Unknown

USUAL_DOWNSAMPLE = 16  # pixels a code, where a run does not say


@dataclass(frozen=True)
class Codes:
    """A clip's codes.

    Attributes:
        codes_vtij: uint16 [views, frames, rows, columns].
        times_s: when the frames are shown, seconds from the start of the video or episode.
    """

    codes_vtij: NDArray[np.uint16]
    times_s: list[float]


class ClipCodes:
    """Decodes codes with the run's own tokenizer, which is loaded when it is first wanted."""

    def __init__(self, media: ClipMedia) -> None:
        self.media = media
        self._rows = media.rows
        self._one_at_a_time = threading.Lock()  # torch takes all cores that there are

    def of(self, clip_id: str) -> Codes | None:
        """A clip's codes; None where it has none."""
        row = self._rows.row("tokens", clip_id, ["status", "codes", "shape", "times_s"])
        if row is None or row["status"] != "ok" or not row["codes"]:
            return None
        codes_vtij = np.frombuffer(row["codes"], "<u2").reshape(row["shape"]).astype(np.uint16)
        return Codes(codes_vtij, row["times_s"])

    def decoded(self, clip_id: str, view: int, frame: int) -> bytes:
        """A PNG of what the codes of a frame decode to.

        Raises:
            UserError: the run's tokenizer is gone, or is another one now.
        """
        codes_tij = self._frame(clip_id, view, frame)
        with self._one_at_a_time:
            frames_thwc = self._vqgan().decode(codes_tij)
        return png(frames_thwc[0])

    def encoded(self, clip_id: str, view: int, frame: int) -> bytes:
        """A PNG of a frame as it was encoded: a square, as large as the tokenizer's.

        Raises:
            MediaError: the clip's media are gone or damaged.
        """
        codes_tij = self._frame(clip_id, view, frame)
        side = self._side(codes_tij.shape[1])
        clip, found = self.media.clip(clip_id), self.of(clip_id)
        assert found is not None
        return png(center_square(self._shown(clip, view, frame, found.times_s[frame]), side))

    def _frame(self, clip_id: str, view: int, frame: int) -> NDArray[np.uint16]:
        """Codes of one frame, [1, rows, columns]."""
        found = self.of(clip_id)
        if found is None:
            raise Unknown("the clip has no codes; those of kept clips are in the table `tokens`.")
        views, frames = found.codes_vtij.shape[:2]
        if not (0 <= view < views and 0 <= frame < frames):
            raise Unknown(
                f"the clip has no frame {frame} of view {view}; it has {frames} of each of {views}."
            )
        return found.codes_vtij[view, frame : frame + 1]

    def _shown(self, clip: Clip, view: int, frame: int, time_s: float) -> FrameHWC:
        pictures = self._rows.recorded.pictures
        if not isinstance(pictures, EpisodeViews):
            return self.media.frame(clip, self.media.framing(clip), time_s)
        assert isinstance(clip, EpisodePlace)
        steps = self._rows.row("episodes", clip.clip_id, ["steps_taken"]) or {"steps_taken": []}
        if frame >= len(steps["steps_taken"]):
            raise MediaError("the table `episodes` does not say which step was encoded")
        return self.media.step(clip, view, int(steps["steps_taken"][frame]))

    def _side(self, grid: int) -> int:
        """Side of the encoded squares, pixels, by the number of codes along it."""
        return grid * int(self._recorded().get("downsample", USUAL_DOWNSAMPLE))

    def _recorded(self) -> dict[str, Any]:
        """What the marker of the table says of the tokenizer that wrote it; {} if nothing."""
        marker = read_marker(self._rows.run.out / "tables" / "tokens")
        found: dict[str, Any] = marker.get("settings", {}).get("models") or {}
        return found

    def _vqgan(self) -> vqgan.VQGAN:
        stage = self._rows.run.stages.get("tokens")  # says why it cannot be told
        if not isinstance(stage, Encoding):
            raise UserError("run.yaml does not say which tokenizer wrote the codes.")
        loaded, wrote = stage.vqgan(in_float32=True), self._recorded().get("weights_sha256")
        if wrote and loaded.weights_sha256 != wrote:
            raise UserError(
                f"the codes are of another tokenizer than {stage.model} holds now ({wrote[:12]}, "
                f"found {loaded.weights_sha256[:12]}); put the old one back, or curate again."
            )
        return loaded


def png(frame_hwc: FrameHWC) -> bytes:
    """A PNG of a frame, whose pixels are the frame's own."""
    file = io.BytesIO()
    Image.fromarray(frame_hwc).save(file, "PNG", compress_level=1)
    return file.getvalue()
