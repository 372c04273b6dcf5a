"""Draw the README's strip of pictures from what `handloom demo` has written.

python docs/draw_strip.py runs/train-sample docs/pictures/strip.jpg
"""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from handloom.pipeline.configuration import recorded_job
from handloom.stages.report.gallery import gather
from handloom.stages.report.page import selection
from handloom.stages.report.pictures import Pictures
from handloom.stages.report.strip import colour_of, in_picture
from handloom.stages.tables.parts import open_tables
from handloom.stages.tokens import TokenRow
from handloom.tokenize.frames import center_square

SIDE, GAP, LABEL = 220, 8, 30  # pixels
NAMES = ("video", "hands", "codes, decoded", "predicted", "the policy acts")


def people(run: Path) -> list[Image.Image]:
    """A frame of the kept clip with the most hands: as it is, with its hands, and by its codes."""
    job, tables = recorded_job(run), open_tables(run)
    kept = gather(tables, selection(job.stages)).kept.values()
    pictures = Pictures(tables, job.stages["ingest"])
    searches = {clip.clip_id: pictures.search(clip) for clip in kept}
    clip = max(kept, key=lambda c: sum(map(searches[c.clip_id].is_hit, searches[c.clip_id].shown)))
    search, framing = searches[clip.clip_id], pictures.framing(clip)
    frame = search.best(search.shown)
    tokens = pictures.row("tokens", TokenRow, clip)
    (looked_hwc,) = pictures.frames(clip, framing, np.array([search.row.times_s[frame]]))
    video = Image.fromarray(looked_hwc)
    hands, (width, height) = video.copy(), video.size
    for hand in search.hands(frame):
        x0, y0, x1, y1 = in_picture(hand["box_xyxy"], framing)
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        ImageDraw.Draw(hands).rectangle(box, outline=colour_of(search, hand), width=height // 80)
    near = int(np.abs(np.array(tokens.times_s) - search.row.times_s[frame]).argmin())
    codes_tij = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape)[0].astype(np.uint16)
    decoded = job.stages["tokens"].vqgan().decode(codes_tij[near : near + 1])[0]
    squares = [center_square(np.asarray(one), SIDE) for one in (video, hands)]
    return [*map(Image.fromarray, squares), Image.fromarray(decoded)]


def middle_frame(film: Path) -> Image.Image:
    """The frame in the middle of an mp4: its left half, which is the static camera."""
    with av.open(str(film)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    picture = frames[len(frames) // 2]
    return picture.crop((0, 0, picture.width // 2, picture.width // 2))


def main(run: Path, out: Path) -> None:
    """Put the panels side by side."""
    predictions = Image.open(run / "stage1" / "predictions.png")
    predicted = predictions.crop((433, 935, 591, 1093))  # of the third clip, two frames ahead
    panels = [
        *people(run / "human"),
        predicted,
        middle_frame(run / "rollouts/policy/chain-001.mp4"),
    ]
    sheet = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE + LABEL), "white")
    for number, (name, panel) in enumerate(zip(NAMES, panels, strict=True)):
        x = number * (SIDE + GAP)
        sheet.paste(panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, 0))
        font = ImageFont.load_default(16)
        ImageDraw.Draw(sheet).text((x + 2, SIDE + 6), name, "#444", font=font)
    sheet.save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
