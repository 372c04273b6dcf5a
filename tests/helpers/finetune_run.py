"""A small run of stage 2 without a latent, as a program that several processes run together."""

import sys
from dataclasses import replace
from pathlib import Path

from handloom.train.finetune.config import finetune
from tests.train.finetune.test_finetune import SMALL, small_finetune

if __name__ == "__main__":
    shards, out = map(Path, sys.argv[1:])
    finetune(small_finetune(shards, out, head=replace(SMALL, latent=0)))
