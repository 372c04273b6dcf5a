"""Train on shards from Python: the options of `handloom train pretrain` are a dataclass.

    make curate && .venv/bin/python examples/train_on_shards.py

It trains the smallest model for a few steps, then loads it and asks it how a held-out clip goes on.
Run it again and nothing is left to do; with more steps, start a new folder.
"""

import sys
from pathlib import Path

from handloom.tokenize.shards import ShardDataset
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer.start import train


def main(
    shards: str = "runs/sample/shards", out: str = "runs/train_on_shards", steps: str = "30"
) -> None:
    """Train on a folder of shards, or its URL, for some steps."""
    train(PretrainConfig(shards=(shards,), out=Path(out), steps=int(steps), size="mini"))

    # Not before: `train` says how torch's threads wait, which they read when torch is imported.
    from handloom.train.model import continuation, export, text

    model, facts = export.load(Path(out))
    encoder = text.load_again(facts["text_encoder"])
    clip = ShardDataset(shards, split="val")[0]
    true = clip["tokens"][:, : model.shape.frames]  # uint16 [views, frames, rows, columns]
    predicted = continuation.continue_clip(
        model, true[:, :1], encoder([clip["caption"]]), frames=model.shape.frames
    )
    right = (predicted == true)[:, 1:].mean()
    print(f"{clip['caption']!r}, given frame 0: {right:.1%} of the later codes are right")


if __name__ == "__main__":
    main(*sys.argv[1:])
