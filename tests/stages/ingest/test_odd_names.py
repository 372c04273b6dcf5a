"""Whatever lies where a video should be costs one row, which says what it is."""

import os
import socket
from pathlib import Path

import pytest

from handloom.errors import MediaError
from handloom.stages.datasets.media import VIDEO_SUFFIXES, files_below
from handloom.stages.datasets.source import SourceVideo, Span
from handloom.stages.ingest.probes import Probes
from handloom.stages.ingest.videos import Ingest
from tests.helpers.odd_videos import Odd, x264


def asked(root: Path, path: str) -> str:
    with pytest.raises(MediaError) as caught:
        Probes(None).probe(root, path, "00")
    return str(caught.value)


def test_what_is_no_file_is_named_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock.mp4")
        kinds = {"pipe": "a named pipe", "folder": "a folder", "sock": "a socket",
                 "null": "a device", "loop": "Too many levels of symbolic links",
                 "gone": "No such file"}  # fmt: skip
        for name, kind in kinds.items():
            said = asked(tmp_path, f"{name}.mp4")
            assert said.startswith(f"{name}.mp4: ")
            assert kind in said


def test_a_name_that_is_no_utf8_is_listed_and_refused(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    (path,) = files_below(tmp_path, tmp_path, VIDEO_SUFFIXES)
    path.encode()  # so that tables can hold it
    assert asked(tmp_path, path) == "caf\\xe9.mp4: the name of the file is not UTF-8: rename it"


def test_a_stream_without_times_is_called_by_its_name(tmp_path: Path) -> None:
    Odd("raw.h264", x264()).write(tmp_path)
    assert "raw h264 stream, which says no times" in asked(tmp_path, "raw.h264")


def test_pixels_too_wide_to_be_meant(tmp_path: Path) -> None:
    Odd("wide.mp4", [*x264(), "-vf", "setsar=20/1"]).write(tmp_path)
    video = SourceVideo("wide", "wide.mp4", "", "v2", (Span(0.0, 1.5, "a"),), 0.0)
    with pytest.raises(MediaError, match=r"wide\.mp4: pixels 20 times as wide as high"):
        list(Ingest().at(tmp_path)(video))
