"""Encoding frames: handloom against a plain loop over diffusers' VQModel, in the same run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/bench_encode.py [--threads 2] [--rounds 5]
    python benchmarks/bench_encode.py --device cuda

Both encode the same frames with the same network: the usual f16 encoder (128 channels, two blocks
a level, 16,384 codes) with random weights, at 256 pixels. Each side has a process of its own, with
glibc's default allocator and with raised thresholds; they take turns round by round, so that a
machine that others use slows all of them alike. Handloom raises the thresholds itself.

Ids are compared with those of the plain loop on one thread, once and untimed: with two threads its
own latents differ in the last digits, and a code that ties in all others can come out otherwise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
SIDE = 256
CLIP = 5  # frames of a clip: what a plain loop on a GPU would call a batch


def write_model(folder: Path) -> None:
    import torch
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(128, 128, 256, 256, 512),
        layers_per_block=2,
        latent_channels=256,
        vq_embed_dim=8,
        num_vq_embeddings=16384,
    )
    torch.nn.init.normal_(model.quantize.embedding.weight)
    # latents as long as codes, so that the nearest code changes from place to place
    torch.nn.init.normal_(model.quant_conv.weight, std=0.2)
    model.save_pretrained(folder)


def frames(count: int, seed: int) -> np.ndarray:
    """Soft coloured pictures with a few hard edges."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        soft = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        picture = np.array(soft.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for _ in range(6):
            x, y = rng.integers(0, SIDE * 3 // 4, 2)
            picture[y : y + 40, x : x + 60] = rng.integers(0, 255, 3)
        made.append(picture)
    return np.stack(made)


class Plain:
    """What one writes first."""

    def __init__(self, folder: str, device: str, threads: int) -> None:
        import torch
        from diffusers import VQModel

        torch.set_num_threads(threads)
        self.torch, self.device = torch, device
        self.model = VQModel.from_pretrained(folder).eval().to(device)

    def encode(self, frames_thwc: np.ndarray) -> np.ndarray:
        size = 1 if self.device == "cpu" else CLIP
        ids = []
        with self.torch.inference_mode():
            for i in range(0, len(frames_thwc), size):
                x = self.torch.from_numpy(frames_thwc[i : i + size]).permute(0, 3, 1, 2)
                x = (x.contiguous().float() / 255).to(self.device)
                latents = self.model.encode(x).latents
                found = self.model.quantize(latents)[2][2]
                ids.append(found.reshape(len(x), *latents.shape[2:]).cpu().numpy())
        return np.concatenate(ids)


def handloom(folder: str, device: str, threads: int, dtype: str) -> Any:
    from handloom.tokenize import vqgan

    return vqgan.load(folder, device, threads, dtype=dtype)


def serve(side: str, args: argparse.Namespace) -> None:
    """Encode a round for each line on stdin; answer with seconds and the file of the ids."""
    where = args.folder, args.device, args.threads
    tokenizer = Plain(*where) if side == "plain" else handloom(*where, args.dtype)
    for line in sys.stdin:
        count, seed, out = json.loads(line)
        batch = frames(count, seed)
        started, cpu = time.perf_counter(), time.process_time()
        ids = tokenizer.encode(batch)
        took = [time.perf_counter() - started, time.process_time() - cpu]
        np.save(out, ids)
        print(json.dumps(took), flush=True)


def start(side: str, raised: bool, args: argparse.Namespace, folder: str) -> Any:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    env |= ALLOCATOR if raised else {}
    command = [sys.executable, __file__, "--serve", side, "--folder", folder]
    command += ["--device", args.device, "--threads", str(args.threads), "--dtype", args.dtype]
    pipe = subprocess.PIPE
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=quiet, text=True)


def ask(process: Any, count: int, seed: int, folder: str) -> tuple[list[float], np.ndarray]:
    """One round of one side: wall and CPU seconds, and the ids."""
    out = f"{folder}/ids.npy"
    print(json.dumps([count, seed, out]), file=process.stdin, flush=True)
    seconds = json.loads(process.stdout.readline())
    return seconds, np.load(out)


def measure(processes: dict[Any, Any], args: argparse.Namespace, folder: str) -> dict[Any, Any]:
    """Seconds a frame of each side, and the share of its last ids that are the reference's."""
    one = argparse.Namespace(device=args.device, threads=1, dtype=args.dtype)
    results: dict[Any, Any] = {key: {"wall": [], "cpu": []} for key in processes}
    for number in range(args.rounds + 1):  # the first warms up
        ids: dict[Any, Any] = {}
        if number == args.rounds:
            reference = start("plain", True, one, f"{folder}/vqgan")
            ids["reference"] = ask(reference, args.frames, number, folder)[1]
            reference.stdin.close()
        for key, process in processes.items():
            (wall, cpu), ids[key] = ask(process, args.frames, number, folder)
            if number:
                results[key]["wall"].append(wall / args.frames)
                results[key]["cpu"].append(cpu / args.frames)
        for key in processes if "reference" in ids else ():
            results[key]["same"] = float((ids[key] == ids["reference"]).mean())
            results[key]["kinds"] = len(np.unique(ids[key]))
    return results


def show(results: dict[Any, Any], args: argparse.Namespace) -> None:
    import torch

    print(f"{args.device}, {args.threads} threads, torch {torch.__version__}, "
          f"{args.frames} frames a round, medians of {args.rounds} rounds")  # fmt: skip
    print("              | ms a frame    | faster than plain |")
    print("side     | allocator |   wall |   CPU |  wall |   CPU | same ids | kinds")
    for (side, raised), values in results.items():
        wall, cpu = (statistics.median(values[kind]) for kind in ("wall", "cpu"))
        plain = results[("plain", raised)]
        faster = statistics.median(plain["wall"]) / wall, statistics.median(plain["cpu"]) / cpu
        print(f"{side:8} | {'raised' if raised else 'default':9} | {wall * 1e3:6.0f} | "
              f"{cpu * 1e3:5.0f} | {faster[0]:5.2f} | {faster[1]:5.2f} | {values['same']:8.3%} | "
              f"{values['kinds']}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of handloom's side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=4, help="a round; on a GPU rather 320")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "vqgan")
        sides = [(side, raised) for raised in (False, True) for side in ("plain", "handloom")]
        processes = {key: start(*key, args, f"{folder}/vqgan") for key in sides}
        results = measure(processes, args, folder)
        for process in processes.values():
            process.stdin.close()
            process.wait()
    show(results, args)


if __name__ == "__main__":
    main()
