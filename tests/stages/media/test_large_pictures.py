"""Whatever one file holds, a worker stays below 1.5 GB: pictures are reduced one at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.folders import CHECKOUT
from tests.helpers.odd_videos import run

LIMIT_KB = 1_500_000

STAGES = """
import sys
from pathlib import Path
from handloom.errors import MediaError
from handloom.stages.caption.stage import Caption
from handloom.stages.datasets.source import SourceVideo, Span
from handloom.stages.hands.stage import Hands
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.clip_frames import whole
from handloom.stages.tokens import Tokens

path, name = Path(sys.argv[1]), sys.argv[2]
ingest = Ingest().at(path.parent)
video = SourceVideo("a", path.name, "", "v2", (Span(0.0, 2.0, "cut the onion"),), 0.0)
try:
    (clip,) = ingest(video)
    if name == "tokens":
        stage = Tokens(model="bundled-128").at(path.parent, None, ingest)
    if name == "hands":
        stage = Hands().at(path.parent, None, ingest)
    if name == "caption":
        stage = Caption(route="vlm", model=str(path.parent)).at(path.parent, None, ingest)
        print(len(stage._frames(clip, whole(clip))))
    elif name != "ingest":
        stage.setup()
        print([row.status for row in stage(*((clip,) if name == "hands" else (clip, whole(clip))))])
except MediaError as error:
    print(error)
status = Path("/proc/self/status").read_text()  # ru_maxrss would count what the parent had
print(status.split("VmHWM:")[1].split()[0])
"""


def worked(path: Path, stage: str) -> tuple[str, int]:
    """A stage's answer about a file, and the most memory its process had, kB."""
    command = [sys.executable, "-c", STAGES, str(path), stage]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, peak = done.stdout.splitlines()
    return "\n".join(said), int(peak)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["hands", "caption", "tokens"])
def test_the_largest_pictures_that_are_taken(tmp_path: Path, stage: str) -> None:
    path = tmp_path / "large.avi"
    run("-f", "lavfi", "-i", "testsrc2=s=8000x8000:d=2:r=2", "-c:v", "mjpeg", "-q:v", "10", path)
    said, peak_kb = worked(path, stage)
    assert said in ("['ok']", "6")
    assert peak_kb < LIMIT_KB


@pytest.mark.long
def test_larger_ones_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.avi"
    run("-f", "lavfi", "-i", "color=s=16000x16000:d=1:r=2", "-c:v", "mjpeg", "-q:v", "20", path)
    said, peak_kb = worked(path, "ingest")
    assert "pictures of 16000 x 16000, expected at most 67,108,864 pixels" in said
    assert peak_kb < 400_000
