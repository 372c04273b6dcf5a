"""How fast one core reads RT-1-like episodes: scan, read, check, parse, views of the pictures.

    python benchmarks/bench_tfrecord.py [--megabytes 600] [--rounds 3]

Writes a file of episodes with RT-1's keys, sizes and picture bytes (random, they are not decoded),
then reads it: the first round warms the page cache. Prints MB/s of the file for every round.
"""

import argparse
import os
import struct
import tempfile
import time
from pathlib import Path

import numpy as np

from handloom.stages.datasets.formats import tf_example as example
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.formats.tfrecord import masked_crc

STEPS, PICTURE_BYTES = 40, 34_000  # 1.4 MB an episode, the mean of RT-1
WIDTHS = {
    "action/world_vector": 3, "action/rotation_delta": 3, "action/gripper_closedness_action": 1,
    "action/base_displacement_vector": 2, "observation/natural_language_embedding": 512,
    "observation/base_pose_tool_reached": 7, "observation/gripper_closed": 1, "reward": 1,
    "observation/workspace_bounds": 9, "observation/robot_orientation_positions_box": 9,
    "observation/orientation_box": 6, "observation/orientation_start": 4,
}  # fmt: skip
WANTED = {
    "steps/action/world_vector", "steps/action/rotation_delta", "steps/is_first",
    "steps/action/gripper_closedness_action", "steps/action/terminate_episode",
    "steps/observation/base_pose_tool_reached", "steps/observation/gripper_closed",
    "steps/observation/image", "steps/observation/natural_language_instruction",
}  # fmt: skip


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(key: str, kind: int, body: bytes) -> bytes:
    return field(1, field(1, key.encode()) + field(2, field(kind, body)))


def episode(rng: np.random.Generator) -> bytes:
    parts = []
    for name, width in WIDTHS.items():
        floats = rng.normal(size=STEPS * width).astype("<f4").tobytes()
        parts.append(entry(f"steps/{name}", 2, field(1, floats)))
    for name in ("is_first", "is_last", "is_terminal"):
        parts.append(entry(f"steps/{name}", 3, field(1, bytes(STEPS))))
    parts.append(entry("steps/action/terminate_episode", 3, field(1, bytes(3 * STEPS))))
    pictures = b"".join(
        field(1, b"\xff\xd8\xff" + rng.bytes(PICTURE_BYTES - 3)) for _ in range(STEPS)
    )
    parts.append(entry("steps/observation/image", 1, pictures))
    texts = field(1, b"pick coke can") * STEPS
    parts.append(entry("steps/observation/natural_language_instruction", 1, texts))
    return field(1, b"".join(parts))


def write(path: Path, megabytes: int) -> None:
    episodes = [episode(np.random.default_rng(seed)) for seed in range(16)]
    with path.open("wb") as file:
        while file.tell() < megabytes * 1e6:
            for payload in episodes:
                head = struct.pack("<Q", len(payload))
                file.write(head + struct.pack("<I", masked_crc(head)) + payload)
                file.write(struct.pack("<I", masked_crc(payload)))


def read(path: Path) -> int:
    pictures = 0
    for place in tfrecord.scan(path):
        payload = tfrecord.read(path, place.offset, place.length)
        values = example.parse(payload, WANTED.__contains__)
        assert len(values) == len(WANTED)
        pictures += len(values["steps/observation/image"])
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rt1-train.tfrecord-00000-of-00001"
        write(path, args.megabytes)
        size = path.stat().st_size
        print(f"{size / 1e6:.0f} MB, {os.cpu_count()} cores, one used")
        for i in range(args.rounds):
            start, cpu = time.perf_counter(), time.process_time()
            pictures = read(path)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            print(f"round {i}: {size / wall / 1e6:.0f} MB/s wall, {size / cpu / 1e6:.0f} MB/s of "
                  f"a core, {pictures} pictures")  # fmt: skip


if __name__ == "__main__":
    main()
