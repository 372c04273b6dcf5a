"""A fine-tuned model as two files that `Policy` and `handloom eval policy` load.

OUT/export/model.safetensors    the weights, float32
OUT/export/config.json          format, shape, space (statistics), tokenizer, text encoder; last
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model import export
from handloom.train.model.gpt import Shape

FORMAT, VERSION = "handloom-robot", 1


def save(folder: Path, model: RobotModel, facts: dict[str, Any]) -> None:
    """Write a model, whole or not at all.

    Args:
        folder: to write; what it held is replaced.
        model: to write.
        facts: plain JSON beside it: `space`, `stride`, `tokenizer`, `text_encoder`, ….
    """
    config = {"format": FORMAT, "version": VERSION, "shape": asdict(model.shape), **facts}
    export.write(folder, model, config)


def load(folder: Path, device: str = "cpu") -> tuple[RobotModel, Space, dict[str, Any]]:
    """Load a model.

    Args:
        folder: of an export, or of the run that holds one in `export/`.
        device: a torch device.

    Returns:
        The model, in evaluation mode; what its states and actions are; the facts of config.json.

    Raises:
        UserError: there is no export, it is of another format, it lacks the normalisation
            statistics, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = find(folder)
    try:
        facts: dict[str, Any] = json.loads((folder / export.CONFIG).read_text())
        _check_format(folder, facts)
        space = Space.from_dict(facts["space"])
        model = RobotModel(shape_of(facts["shape"]))
        model.load_state_dict(load_file(folder / export.WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} does not load as a policy of handloom ({str(error).splitlines()[0][:200]}): "
            "fine-tune again, the same command continues from the last checkpoint."
        ) from error
    return model.to(device).eval(), space, facts


def find(folder: Path) -> Path:
    """The export in a folder: itself, or that of a run.

    Raises:
        UserError: there is none.
    """
    for place in (folder, folder / "export"):
        if (place / export.CONFIG).is_file() and (place / export.WEIGHTS).is_file():
            return place
    raise UserError(
        f"{folder} holds no fine-tuned model ({export.WEIGHTS} and {export.CONFIG}): name the "
        "--out of a `handloom train finetune` that has finished, or its `export` folder."
    )


def shape_of(plain: dict[str, Any]) -> RobotShape:
    """A shape from JSON."""
    return RobotShape(
        **{
            **plain,
            "trunk": Shape(**plain["trunk"]),
            "views": tuple(plain["views"]),
            "grippers": tuple(plain["grippers"]),
            "head": HeadOptions(**plain["head"]),
        }
    )


def _check_format(folder: Path, facts: dict[str, Any]) -> None:
    found = (facts.get("format"), facts.get("version"))
    if found == ("handloom-gpt", 1):
        raise UserError(
            f"{folder} is a model of stage 1, which has no actions: fine-tune it with `handloom "
            f"train finetune --stage1 {folder}`."
        )
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{folder / export.CONFIG} is of format {found[0]} {found[1]}, this handloom reads "
            f"{FORMAT} {VERSION}: update handloom, or fine-tune again."
        )
