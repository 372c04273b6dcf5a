"""One door: whoever looks at a clip sees the same picture, upright, square, without bars."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from handloom.errors import UserError
from handloom.stages.caption.stage import Caption, source_row
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.clip_frames import ClipFrames, Framing, pictures_of, uniform_times, whole
from handloom.stages.media.frame_transform import load_transform
from handloom.stages.media.runs import RecordedRun
from handloom.stages.media.video import probe
from handloom.stages.report import page
from handloom.stages.select import SelectRow
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip, Row
from handloom.stages.tokens import TokenRow, Tokens
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.train.pretrain import true_frames
from handloom.train.vqgan.frames import Frames
from tests.helpers.caption_server import MODEL, fake_server
from tests.helpers.numbered_clips import SIDE, number_shown, number_told, picture
from tests.helpers.recorded_runs import clip_row, hands_row, write_run
from tests.helpers.vqgan_training import tiny_config

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
NUMBER = 4321
BAR = SIDE // 4  # above and below, of a frame of 1.5 SIDE
PICTURE = [0.0, 1 / 6, 1.0, 5 / 6]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`odd.mp4`: a letterboxed number, stored lying on its side, with pixels twice as wide as high.

    The first second shows another number: it is not of the clip's longest shot.
    """
    folder = tmp_path_factory.mktemp("data")
    frames = []
    for number in [1] * 10 + [NUMBER] * 30:
        upright = np.pad(picture(number), ((BAR, BAR), (0, 0), (0, 0)))
        lying = np.rot90(upright, k=-1)
        frames.append(lying.reshape(SIDE, -1, 2, 3).mean(2).astype(np.uint8))
    size = f"{frames[0].shape[1]}x{SIDE}"
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=10)
    flat = source.output(str(folder / "flat.mp4"), vcodec="libx264", crf=8, vf="setsar=2/1", g=10)
    flat.run(cmd=FFMPEG, input=np.stack(frames).tobytes(), quiet=True)
    turned = ffmpeg.input(str(folder / "flat.mp4"), display_rotation=90)
    turned.output(str(folder / "odd.mp4"), c="copy").run(cmd=FFMPEG, quiet=True)
    return folder


@pytest.fixture
def clip(data: Path) -> Clip:
    facts = probe(data / "odd.mp4")
    assert (facts.rotation, facts.pixel_aspect) == (90, 2.0)
    says = {"text": "#C C moves things"}  # as the fake caption server does
    return clip_row("odd", 0.0, 4.0, media_path="odd.mp4", duration_s=facts.duration_s, **says)


@pytest.fixture
def framing(clip: Clip) -> Framing:
    return replace(whole(clip), shot_start_s=1.0, picture_xyxy=PICTURE)


@pytest.fixture
def run(data: Path, clip: Clip, framing: Framing, tiny_vqgan: Path, tmp_path: Path) -> Path:
    """A finished run of the clip and of a held-out twin."""
    twin = replace(clip, clip_id="twin", video_id="v-twin", split="val")
    clips = [clip, twin]
    tables: dict[str, list[Row]] = {
        "ingest": list(clips),
        "hands": [hands_row(c, replace(framing, clip_id=c.clip_id)) for c in clips],
        "duplicates": [duplicate(c) for c in clips],
        "select": [selected(c) for c in clips],
        "caption": [source_row(c) for c in clips],
        "tokens": [encoded(c, framing, tiny_vqgan, data) for c in clips],
    }
    return write_run(tmp_path / "run", data, tables)


def duplicate(clip: Clip) -> DuplicateRow:
    return DuplicateRow(clip_id=clip.clip_id, similarity=0.0, leak_similarity=0.0, matches=[])


def selected(clip: Clip) -> SelectRow:
    scores = [name for name in SelectRow.__annotations__ if name not in Row.__annotations__]
    return SelectRow(clip_id=clip.clip_id, **dict.fromkeys(scores, 0.0))


def encoded(clip: Clip, framing: Framing, model: Path, data: Path) -> TokenRow:
    stage = Tokens(model=str(model), resolution=SIDE, frames=3).at(data)
    (row,) = stage(clip, framing)
    assert isinstance(row, TokenRow)
    return row


@pytest.mark.parametrize("scattered", [False, True])
def test_frames_are_upright_square_and_without_bars(
    data: Path, clip: Clip, framing: Framing, scattered: bool
) -> None:
    door = ClipFrames(data, scattered=scattered)
    frames = list(door.frames(clip, framing, uniform_times(framing, 4)))
    assert [frame.shape for frame in frames] == [(SIDE, SIDE, 3)] * 4
    assert {number_shown(frame) for frame in frames} == {NUMBER}
    (uncut,) = door.frames(clip, whole(clip), np.array([0.05]))
    assert uncut.shape == (SIDE + 2 * BAR, SIDE, 3)
    assert number_shown(uncut[BAR:-BAR]) == 1


def test_both_ways_to_read_give_the_same_frames(data: Path, clip: Clip, framing: Framing) -> None:
    times_s = uniform_times(framing, 5)
    one, other = (
        np.stack(list(ClipFrames(data, scattered=s).frames(clip, framing, times_s)))
        for s in (False, True)
    )
    np.testing.assert_array_equal(one, other)


def test_codes_are_of_what_the_door_gives(
    data: Path, clip: Clip, framing: Framing, tiny_vqgan: Path
) -> None:
    row = encoded(clip, framing, tiny_vqgan, data)
    tokenizer = vqgan.load(str(tiny_vqgan), resolution=SIDE)
    frames = ClipFrames(data).frames(clip, framing, np.array(row.times_s))
    expected = tokenizer.encode(np.stack([center_square(frame, SIDE) for frame in frames]))
    np.testing.assert_array_equal(np.frombuffer(row.codes, "<u2"), expected.ravel())
    assert (row.width, row.height) == (SIDE, SIDE)


def test_a_caption_model_is_shown_no_bars(data: Path, clip: Clip, framing: Framing) -> None:
    with fake_server(latency_s=0.0) as url:
        stage = Caption(route="server", model=MODEL, url=url, frames=3).at(data)
        (row,) = stage(clip, framing)
        assert number_told(row.caption) == NUMBER
        (row,) = stage(clip, replace(framing, picture_xyxy=[0.0, 0.0, 1.0, 1.0]))
        assert number_told(row.caption) != NUMBER


def test_the_report_shows_what_was_encoded(run: Path, data: Path, tiny_vqgan: Path) -> None:
    encoder = Tokens(model=str(tiny_vqgan), resolution=SIDE)
    page.write(dict(open_tables(run)), {"ingest": Ingest().at(data), "tokens": encoder}, run)
    text = (run / "report/index.html").read_text()
    for title, rows in (("Codes", 2), ("Kept", 1)):
        section = text.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]
        (first, *_) = re.findall(r"base64,([^\"]+)", section)
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
        side = shown.shape[0] // rows
        assert number_shown(shown[:side, :side]) == NUMBER, title


def test_training_sees_what_was_encoded(run: Path, tiny_vqgan: Path) -> None:
    config = replace(tiny_config(run, run / "model"), frames=(str(run),), max_pairs=8)
    pairs = Frames(config).pool(0).pairs[0]
    assert pairs.shape == (6, 2, SIDE, SIDE, 3)  # half a second apart, in a shot of three
    assert {number_shown(frame) for frame in pairs.reshape(-1, SIDE, SIDE, 3)} == {NUMBER}
    tokenizer = vqgan.load(str(tiny_vqgan), resolution=SIDE)
    row = open_tables(run)["tokens"].get(TokenRow, "00", "odd")
    codes = np.frombuffer(row.codes, "<u2").reshape(row.shape)
    sample = {"clip_id": "odd", "tokens": codes, "frame_times_s": row.times_s}
    frames = true_frames.read([str(run / "shards")], [sample], tokenizer)["odd"]
    assert {number_shown(frame) for frame in frames} == {NUMBER}


@pytest.fixture
def inverting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module with a transform that inverts pictures, and names it."""

    def write(module: str, code: str = "255 - frames") -> str:
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        text = f"def inverted(clip, frames):\n    assert clip.dataset\n    return {code}\n"
        (folder / f"{module}.py").write_text(text)
        return f"{module}:inverted"

    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return write


def test_a_transform_reaches_whoever_looks(
    run: Path, data: Path, clip: Clip, framing: Framing, inverting: Callable[[str], str]
) -> None:
    name = inverting("reaches")
    stage = Tokens().at(data, source=Ingest(frame_transform=name).at(data))
    write_run(run, data, {}, {"frame_transform": name})
    recorded = RecordedRun(run).pictures
    assert isinstance(recorded, ClipFrames)
    (plain,) = ClipFrames(data).frames(clip, framing, np.array([2.0]))
    for door in (pictures_of(stage), recorded):
        (frame,) = door.frames(clip, framing, np.array([2.0]))
        np.testing.assert_array_equal(frame, 255 - plain)


def test_codes_depend_on_the_transform_and_clips_do_not(
    data: Path, tiny_vqgan: Path, inverting: Callable[..., str]
) -> None:
    def settings(name: str) -> tuple[dict[str, object], dict[str, object]]:
        ingest = Ingest(frame_transform=name)
        tokens = Tokens(model=str(tiny_vqgan)).at(data, source=ingest)
        captions = Caption(route="vlm", model="m").at(data, source=ingest)
        return tokens.settings(), captions.settings()

    plain, ours = settings(""), settings(inverting("depend"))
    theirs = settings(inverting("other", "254 - frames"))
    for i in range(2):
        assert plain[i] != ours[i] != theirs[i] != plain[i]
        assert "frame_transform" not in plain[i]
    assert Caption().at(data, source=Ingest(frame_transform=inverting("text"))).settings() == (
        Caption().settings()
    )  # who shows no picture to a model


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such_function", "json"])
def test_a_transform_that_is_not_there_is_told_of(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} (cannot be imported|is not there)"):
        load_transform(name)


def test_a_transform_must_keep_the_size(
    data: Path, clip: Clip, framing: Framing, inverting: Callable[..., str]
) -> None:
    door = ClipFrames(data, load_transform(inverting("smaller", "frames[:, ::2]")))
    with pytest.raises(UserError, match=r"uint8 \[1, 64, 64, 3\] into uint8 \[1, 32, 64, 3\]"):
        list(door.frames(clip, framing, np.array([2.0])))
