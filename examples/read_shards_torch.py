"""Read shards in plain PyTorch: `webdataset` and a `DataLoader`, nothing of handloom.

    make curate && .venv/bin/python examples/read_shards_torch.py

The tars are streamed, and samples shuffled in memory. handloom's own `TorchBatches` reads the same
files in an order that is the same for any number of processes and can be resumed at any step.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import webdataset
from torch.utils.data import DataLoader


def to_tensors(sample: dict[str, Any]) -> dict[str, Any]:
    """One sample: its caption, and its codes int64 [views, frames, rows, columns]."""
    packed = sample["mp"]  # {"codes": bytes, "shape": [V, T, I, J], "meta": {"caption": …, …}}
    codes = torch.frombuffer(bytearray(packed["codes"]), dtype=torch.uint16)
    found = {"caption": packed["meta"]["caption"], "codes": codes.view(packed["shape"]).long()}
    for name in ("state", "action"):  # of robots: float32 [frames, width]
        if f"{name}.npy" in sample:
            found[name] = torch.from_numpy(sample[f"{name}.npy"])
    return found


def loader(shards: str, split: str = "train", batch_size: int = 8) -> DataLoader[Any]:
    """Batches of one split, once through; the clips of a batch must have one shape."""
    tars = sorted(str(path) for path in Path(shards, split).glob("*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1000).decode()
    # A worker reads whole tars, so more workers than tars are of no use.
    return DataLoader(samples.map(to_tensors), batch_size, num_workers=min(2, len(tars)))


def main(shards: str = "runs/sample/shards") -> None:
    """Print what a batch holds, and how many there are."""
    batches = list(loader(shards))
    for name, values in batches[0].items():  # `__key__`, the clip's id, is webdataset's own
        print(name, f"{values.dtype} {list(values.shape)}" if name == "codes" else values)
    print(f"{len(batches)} batches of up to {len(batches[0]['caption'])} clips")


if __name__ == "__main__":
    main(*sys.argv[1:])
