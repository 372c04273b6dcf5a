"""Videos as people have them: containers, codecs, edit lists, offsets, rates, matrices and more.

Every frame shows its number in cells, and one corner is bright, so that pictures tell which frame
they are and how they are turned. What is right is what the FFmpeg program shows.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
WIDTH, HEIGHT, FRAMES, FPS = 160, 96, 60, 30
BITS = 10

Frames = NDArray[np.uint8]
Edit = Callable[[Path, Path], None]


def run(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """FFmpeg's output on a command line."""
    command = [FFMPEG, "-y", "-hide_banner", "-loglevel", "error", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


@cache
def numbered(count: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Frames:
    """RGB uint8 [T, H, W, 3]: the lower half shows a number in bits, the upper left is red."""
    frames = np.full((count, height, width, 3), 60, np.uint8)
    frames[:, : height // 3, : width // 3] = (250, 60, 40)
    cell = width // BITS
    for bit in range(BITS):
        is_on = (np.arange(count) >> bit & 1).astype(bool)
        frames[is_on, height // 2 :, bit * cell : (bit + 1) * cell] = 220
    return frames


@dataclass(frozen=True)
class Odd:
    """One combination: how frames are encoded, and what is done to the file."""

    name: str
    encode: Sequence[str] = ("-c:v", "libx264", "-g", "12", "-bf", "2")
    fps: int = FPS
    frames: int = FRAMES
    before: Sequence[str] = ()
    """FFmpeg's options before its input: raw frames."""
    copy: Sequence[str] = ()
    """Options of a second FFmpeg, which copies the streams into the file."""
    edit: Edit | None = None
    """What is done to the finished bytes."""
    tags: frozenset[str] = field(default_factory=frozenset)

    def write(self, folder: Path) -> Path:
        """Write the file."""
        out = folder / self.name
        first = folder / f"first-{self.name}" if self.copy or self.edit else out
        frames = numbered(self.frames)
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", self.fps]
        run(*map(str, raw), *self.before, "-i", "-", *pixels(self), *self.encode, first,
            data=frames.tobytes())  # fmt: skip
        if self.copy:
            second = folder / f"second-{self.name}" if self.edit else out
            run(*[str(first) if word == "IN" else word for word in self.copy], second)
            first.unlink()
            first = second
        if self.edit:
            self.edit(first, out)
            first.unlink()
        return out


def pixels(odd: Odd) -> list[str]:
    """The pixel format, unless the combination has its own."""
    return [] if "-pix_fmt" in odd.encode or odd.name.endswith(".gif") else ["-pix_fmt", "yuv420p"]


@dataclass(frozen=True)
class Truth:
    """What FFmpeg shows of a file.

    Attributes:
        times_s: float64 [T], from the start of the container.
        pictures: uint8 [T, H, W, 3], turned as shown, pixels as stored.
    """

    times_s: NDArray[np.float64]
    pictures: Frames

    def at(self, time_s: float) -> int:
        """Number of the picture on screen at a time; the first before it is shown."""
        return max(int(np.searchsorted(self.times_s, time_s + 1e-4, side="right")) - 1, 0)

    def which(self, picture_hwc: Frames) -> list[int]:
        """Numbers of the pictures that are as near to this one as any, if they are near at all."""
        size = self.pictures.shape[2], self.pictures.shape[1]
        far = np.abs(self._small - small(resized(picture_hwc, size))).mean((1, 2, 3))
        return [int(i) for i in np.flatnonzero(far <= max(far.min() + 0.5, 0)) if far[i] < 12]

    @cached_property
    def _small(self) -> NDArray[np.float32]:
        return np.stack([small(picture) for picture in self.pictures])


def small(picture_hwc: Frames) -> NDArray[np.float32]:
    return resized(picture_hwc, (40, 40)).astype(np.float32)


def resized(picture_hwc: Frames, size: tuple[int, int]) -> Frames:
    from PIL import Image

    return np.asarray(Image.fromarray(picture_hwc).resize(size, Image.Resampling.BOX))


def truth(path: Path) -> Truth:
    """What FFmpeg's own program shows: pictures, and times less the container's start."""
    done = subprocess.run(
        [FFMPEG, "-hide_banner", "-copyts", "-i", str(path), "-map", stream(path), "-vf",
         "showinfo", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"],
        capture_output=True,
    )  # fmt: skip
    said = done.stderr.decode(errors="replace")
    found = re.search(r"Duration: .*?start: (-?[\d.]+)", said)
    start_s = float(found[1]) if found else 0.0
    shown = re.findall(r"\] n: *\d+ pts: *\S+ pts_time:(\S+)", said)
    size = re.findall(r"\] n: *0 .*? s:(\d+)x(\d+)", said)
    width, height = map(int, size[0])
    pictures = np.frombuffer(done.stdout, np.uint8)
    pictures = pictures[: len(pictures) // (width * height * 3) * width * height * 3]
    pictures = pictures.reshape(-1, height, width, 3)
    times_s = np.array([float(time) for time in shown[: len(pictures)]])
    return Truth(times_s - start_s, pictures)


def stream(path: Path) -> str:
    """FFmpeg's name of the video that is no cover picture."""
    said = subprocess.run([FFMPEG, "-hide_banner", "-i", str(path)], capture_output=True).stderr
    lines = [x for x in said.decode(errors="replace").splitlines() if ": Video:" in x]
    index = next((i for i, line in enumerate(lines) if "attached pic" not in line), 0)
    return f"0:v:{index}"


def x264(keys: int = 12, b_frames: int = 2, more: str = "") -> list[str]:
    return ["-c:v", "libx264", "-preset", "veryfast", "-g", str(keys), "-bf", str(b_frames),
            "-x264-params", f"scenecut=0{more}"]  # fmt: skip


def cut_to(share: float) -> Edit:
    """Keeps the first bytes of a file."""

    def edit(source: Path, out: Path) -> None:
        data = source.read_bytes()
        out.write_bytes(data[: int(len(data) * share)])

    return edit


def with_audio(seconds: float, *before: str, codec: str = "aac") -> list[str]:
    sine = ["-f", "lavfi", "-i", f"sine=duration={seconds}"]
    return [*before, "-i", "IN", *sine, "-map", "0:v", "-map", "1:a", "-c:v", "copy",
            "-c:a", codec]  # fmt: skip


def with_cover(is_first: bool) -> list[str]:
    maps = ["-map", "1:v", "-map", "0:v"] if is_first else ["-map", "0:v", "-map", "1:v"]
    at = 0 if is_first else 1
    cover = ["-f", "lavfi", "-i", "color=c=blue:s=640x640:d=0.04:r=25"]
    return ["-i", "IN", *cover, *maps, f"-c:v:{1 - at}", "copy", f"-c:v:{at}", "mjpeg",
            "-pix_fmt", "yuvj420p", f"-disposition:v:{at}", "attached_pic"]  # fmt: skip


COPY = ["-i", "IN", "-c", "copy"]
HEVC = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
HEVC_CLOSED = [*HEVC, "keyint=12:bframes=2:open-gop=0:log-level=none"]
HEVC_OPEN = [*HEVC, "keyint=12:min-keyint=12:bframes=3:open-gop=1:scenecut=0:log-level=none"]
VP8 = ["-c:v", "libvpx", "-g", "12", "-b:v", "1M", "-deadline", "realtime"]
VP9 = ["-c:v", "libvpx-vp9", "-g", "20", "-b:v", "1M", "-cpu-used", "8", "-deadline", "good"]
HIDDEN = ["-auto-alt-ref", "1", "-lag-in-frames", "16"]
AV1 = ["-c:v", "libaom-av1", "-cpu-used", "8", "-g", "20", "-usage", "realtime"]
JITTER = ["-vf", r"setpts=(N+0.35*mod(N\,3)+3*gte(N\,30))/30/TB", "-fps_mode", "vfr",
          "-enc_time_base", "1/90000"]  # fmt: skip
MPEG2 = ["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-b:v", "2M"]
OPEN_GOP = x264(12, 3, ":open-gop=1:b-pyramid=normal")
TRUNCATED = frozenset({"truncated"})

ODD = [
    # Containers and codecs.
    Odd("h264.mp4", x264()),
    Odd("h264.mov", x264()),
    Odd("h264.mkv", x264()),
    Odd("h264.ts", x264()),
    Odd("h264.avi", x264()),
    Odd("h264.flv", x264()),
    Odd("h264-pyramid.mp4", x264(24, 5, ":b-pyramid=normal")),
    Odd("h264-open-gop.mp4", OPEN_GOP),
    Odd("h264-open-gop.mkv", OPEN_GOP),
    Odd("h264-open-gop.ts", OPEN_GOP),
    Odd("hevc.mp4", [*HEVC_CLOSED, "-tag:v", "hvc1"]),
    Odd("hevc.mkv", HEVC_CLOSED),
    Odd("hevc10.mp4", [*HEVC_CLOSED, "-pix_fmt", "yuv420p10le"]),
    Odd("hevc-open-gop.mp4", HEVC_OPEN),
    Odd("hevc-open-gop.ts", HEVC_OPEN),
    Odd("vp8.webm", VP8),
    Odd("vp8-hidden.webm", [*VP8[:-2], "-deadline", "good", "-cpu-used", "5", *HIDDEN]),
    Odd("vp9.webm", VP9),
    Odd("vp9-hidden.webm", [*VP9, *HIDDEN]),
    Odd("vp9-hidden.mp4", [*VP9, *HIDDEN]),
    Odd("av1.mp4", AV1),
    Odd("av1.mkv", AV1),
    Odd("mpeg4.avi", ["-c:v", "mpeg4", "-g", "12", "-q:v", "3"]),
    Odd("mpeg4-b.avi", ["-c:v", "mpeg4", "-g", "12", "-bf", "2", "-q:v", "3"]),
    Odd("mpeg4-b.mp4", ["-c:v", "mpeg4", "-g", "12", "-bf", "2", "-q:v", "3"]),
    Odd("xvid.avi", ["-c:v", "libxvid", "-g", "12", "-bf", "2", "-q:v", "3"]),
    Odd("mpeg1.mpg", ["-c:v", "mpeg1video", "-g", "12", "-bf", "2", "-b:v", "2M"]),
    Odd("mpeg2.mpg", MPEG2),
    Odd("mpeg2.ts", MPEG2),
    Odd("mjpeg.avi", ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"]),
    Odd("mjpeg.mov", ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"]),
    Odd("prores.mov", ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"]),
    Odd("animation.gif", [], fps=20),
    # Edit lists.
    Odd("edit-short.mp4", x264(), copy=["-ss", "0.2", *COPY]),
    Odd("edit-short-b.mov", x264(24, 5, ":b-pyramid=normal"), copy=["-ss", "0.3", *COPY]),
    Odd("edit-long.mp4", x264(40), copy=["-ss", "1.2", *COPY]),
    Odd("edit-only-gop.mp4", x264(300), copy=["-ss", "0.9", *COPY]),
    Odd("edit-open-gop.mp4", OPEN_GOP, copy=["-ss", "0.55", *COPY]),
    Odd("edit-hevc.mp4", HEVC_CLOSED, copy=["-ss", "0.3", *COPY]),
    # Offsets.
    Odd("late.mp4", x264(), copy=with_audio(3, "-itsoffset", "1")),
    Odd("late.mkv", x264(), copy=with_audio(3, "-itsoffset", "1")),
    Odd("late.ts", x264(), copy=with_audio(3, "-itsoffset", "1")),
    Odd("late-no-b.mp4", x264(12, 0), copy=with_audio(3, "-itsoffset", "1")),
    Odd("late-alone.mkv", x264(), copy=["-itsoffset", "5", *COPY]),
    Odd("late-alone.ts", x264(), copy=["-itsoffset", "5", *COPY]),
    # Frame rates.
    Odd("variable.mp4", [*x264(), *JITTER]),
    Odd("variable.mkv", [*x264(), *JITTER]),
    Odd("variable-no-b.mp4", [*x264(12, 0), *JITTER]),
    Odd("variable.webm", [*VP9, *JITTER]),
    Odd("variable-edit.mp4", [*x264(), *JITTER], copy=["-ss", "0.3", *COPY]),
    Odd("one-a-second.mp4", x264(6), fps=1, frames=40),
    Odd("one-a-second.mkv", x264(6), fps=1, frames=40),
    Odd("fast.mp4", x264(24), fps=120),
    Odd("ntsc.mp4", [*x264(), "-r", "30000/1001"]),
    # Display matrices and pixel aspects.
    Odd("turned-90.mp4", x264(), copy=["-display_rotation", "90", *COPY]),
    Odd("turned-180.mp4", x264(), copy=["-display_rotation", "180", *COPY]),
    Odd("turned-270.mov", x264(), copy=["-display_rotation", "270", *COPY]),
    Odd("turned-90.mkv", x264(), copy=["-display_rotation", "90", *COPY]),
    Odd("mirrored.mp4", x264(), copy=["-display_hflip", *COPY]),
    Odd("mirrored.mkv", x264(), copy=["-display_hflip", *COPY]),
    Odd("upside-down.mp4", x264(), copy=["-display_vflip", *COPY]),
    Odd("mirrored-90.mp4", x264(), copy=["-display_rotation", "90", "-display_hflip", *COPY]),
    Odd("mirrored-270.mp4", x264(), copy=["-display_rotation", "270", "-display_hflip", *COPY]),
    Odd("wide-pixels.mp4", [*x264(), "-vf", "setsar=2/1"]),
    Odd("wide-pixels.mkv", [*x264(), "-vf", "setsar=4/3"]),
    Odd(
        "tall-pixels-90.mp4",
        [*x264(), "-vf", "setsar=1/2"],
        copy=["-display_rotation", "90", *COPY],
    ),
    # And more.
    Odd("interlaced.mp4", [*x264(12, 2, ":tff=1"), "-flags", "+ilme+ildct"]),
    Odd("interlaced.ts", [*x264(12, 2, ":tff=1"), "-flags", "+ilme+ildct"]),
    Odd("interlaced.mpg", [*MPEG2, "-flags", "+ilme+ildct"]),
    Odd("bt709.mp4", [*x264(), "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"]),
    Odd("full-range.mp4", [*x264(), "-pix_fmt", "yuvj420p"]),
    Odd("cover-first.mp4", x264(), copy=with_cover(is_first=True)),
    Odd("cover-last.mp4", x264(), copy=with_cover(is_first=False)),
    Odd("audio-longer.mp4", x264(), copy=with_audio(5)),
    Odd("audio-longer.mkv", x264(), copy=with_audio(5, codec="libopus")),
    Odd("fragmented.mp4", [*x264(), "-movflags", "frag_keyframe+empty_moov"]),
    Odd("fragmented-late.mp4", [*x264(40), "-movflags", "frag_keyframe+empty_moov+delay_moov"]),
    Odd("no-index.mkv", [*x264(), "-live", "1"]),
    Odd("no-index.webm", [*VP9, "-live", "1"]),
    Odd("no-index.avi", ["-c:v", "mpeg4", "-g", "12"], edit=cut_to(0.97), tags=TRUNCATED),
    Odd("truncated.mkv", x264(), edit=cut_to(0.6), tags=TRUNCATED),
    Odd("truncated.ts", x264(), edit=cut_to(0.6), tags=TRUNCATED),
    Odd("truncated.mp4", [*x264(), "-movflags", "faststart"], edit=cut_to(0.6), tags=TRUNCATED),
]
