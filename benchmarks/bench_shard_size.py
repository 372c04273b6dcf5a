"""How many bytes a shard takes over the bytes of its codes, in both layouts.

    python benchmarks/bench_shard_size.py [--samples 20000] [--caption-words 8]

Writes clips of 5 frames of 256 codes with all the metadata that `handloom curate` gives a clip of
Ego4D: 50 clips a video, three decimals in every time, captions of words drawn from a Zipf law.
Counts the tars and the indexes, against 2 bytes a code.
"""

import argparse
import random
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from handloom.tokenize.shards import LAYOUTS, Sample, write_manifest, write_shards

SHAPE = (1, 5, 16, 16)
TOKENIZER = {"name": "random", "weights_sha256": "0" * 64, "codebook_size": 1024}
CLIPS_A_VIDEO = 50


def vocabulary(rng: random.Random, count: int = 2000) -> list[str]:
    letters = "etaoinshrdlucmfwypvbgk"
    return ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(count)]


def samples(count: int, caption_words: int, split: str = "train") -> Iterator[Sample]:
    """Clips with random codes and plausible metadata."""
    rng, numpy_rng = random.Random(count), np.random.default_rng(count)
    words = vocabulary(rng)
    weights = [1 / (rank + 3) for rank in range(len(words))]
    for i in range(count):
        if i % CLIPS_A_VIDEO == 0:
            video, end_s = str(uuid.UUID(int=rng.getrandbits(128))), 0.0
        start_s = round(end_s, 3)
        end_s = round(start_s + rng.uniform(1, 8), 3)
        caption = " ".join(rng.choices(words, weights, k=caption_words))
        step = (end_s - start_s) / SHAPE[1]
        meta = {
            "caption": caption,
            "caption_source": "source",
            "caption_flags": [],
            "text": f"#C C {caption}",
            "text_kind": "narration",
            "dataset": "ego4d",
            "version": "v2",
            "split": split,
            "licence": "ego4d",
            "source_id": video,
            "start_s": start_s,
            "end_s": end_s,
            "fps": 30.0,
            "frame_times_s": [round(start_s + (k + 0.5) * step, 3) for k in range(SHAPE[1])],
            "views": ["main"],
        }
        codes = numpy_rng.integers(0, 1024, SHAPE).astype(np.uint16)
        yield Sample(f"{rng.getrandbits(80):020x}", codes, meta)


def measure(count: int, caption_words: int) -> None:
    raw = count * 2 * int(np.prod(SHAPE))
    mean = np.mean([len(s.meta["caption"]) for s in samples(min(count, 2000), caption_words)])
    print(f"{count:,} samples, captions of {mean:.0f} characters, {raw:,} bytes of codes")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            infos = write_shards(root, "train", samples(count, caption_words), layout=layout)
            write_manifest(root, {"train": infos}, TOKENIZER)
            tars = sum(p.stat().st_size for p in root.glob("*/*.tar"))
            indexes = sum(p.stat().st_size for p in root.glob("*/*.arrow"))
        print(f"  {layout:8}  tar {tars / raw:.4f}  index {indexes / raw:.4f}  "
              f"together {(tars + indexes) / raw:.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--caption-words", type=int, nargs="+", default=[5, 8, 12, 20])
    args = parser.parse_args()
    for words in args.caption_words:
        measure(args.samples, words)


if __name__ == "__main__":
    main()
