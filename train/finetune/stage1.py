"""The GPT of stage 1 as the start of stage 2, checked against the shards of episodes."""

from pathlib import Path
from typing import Any

from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards import sha256_file
from handloom.train.model import export
from handloom.train.model.gpt import GPT

VIEWS = "position.1.weight"  # the table of the model that has a row for each view


def load(folder: Path, grid: tuple[int, int, int], manifest: dict[str, Any]) -> tuple[GPT, Any]:
    """A GPT of stage 1 that fits shards of episodes.

    Args:
        folder: of the run or its export.
        grid: views, rows and columns of the codes of a step.
        manifest: of the shards.

    Returns:
        The GPT, with the views it was trained on, and the facts of its export, with the hash of
        its weights.

    Raises:
        UserError: it reads other codes, another grid or other views.
    """
    model, facts = export.load(folder)
    facts["weights_sha256"] = sha256_file(export.find(folder) / export.WEIGHTS)
    own, other = facts["tokenizer"], manifest["tokenizer"]
    if own["weights_sha256"] != other["weights_sha256"]:
        raise UserError(
            f"--stage1 {folder} was trained on codes of the tokenizer {own['name']} "
            f"({own['weights_sha256'][:12]}, {own['codebook_size']:,} codes), and the shards hold "
            f"those of {other['name']} ({other['weights_sha256'][:12]}, "
            f"{other['codebook_size']:,} codes): curate the episodes with --tokens.model of that "
            "one, or pre-train on this one."
        )
    shape, (views, *rest) = model.shape, grid
    if (shape.rows, shape.cols) != tuple(rest):
        raise UserError(
            f"--stage1 {folder} was trained on frames of {shape.rows} x {shape.cols} codes, and "
            f"the episodes have {rest[0]} x {rest[1]}: curate both with the same "
            "--tokens.resolution."
        )
    if shape.views not in (1, views):
        raise UserError(
            f"--stage1 {folder} was trained on {shape.views} views at a time, and these episodes "
            f"are to be used with {views}: choose as many with --views, or a stage 1 of one view, "
            "which fits any number."
        )
    return model, facts


def widen(weights: dict[str, Tensor], views: int) -> dict[str, Tensor]:
    """Weights for more views: each new one begins as a copy of the only one of stage 1."""
    rows = weights[VIEWS]
    if len(rows) == views:
        return weights
    return {**weights, VIEWS: rows[:1].repeat(views, 1)}
