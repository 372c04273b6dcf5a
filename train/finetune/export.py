"""A fine-tuned model as two files that `Policy` and `handloom eval policy` load.

OUT/export/model.safetensors    the weights, float32
OUT/export/config.json          format, shape, space (statistics), tokenizer, text encoder; last
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model import export
from handloom.train.model.shape import Shape

FORMAT, VERSION = "handloom-robot", 1


def save(folder: Path, model: RobotModel, facts: dict[str, Any]) -> None:
    """Write a model, whole or not at all.

    Args:
        folder: to write; what it held is replaced.
        model: to write.
        facts: plain JSON beside it: `space`, `stride`, `tokenizer`, `text_encoder`, ….
    """
    shape = asdict(model.shape)
    if shape["other_head"] is None:
        del shape["other_head"]  # as in exports from before there was a choice
    if not shape["blind"]:
        del shape["blind"]
    config = {"format": FORMAT, "version": VERSION, "shape": shape, **facts}
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
    folder = find(folder)
    again = "fine-tune again, the same command continues from the last checkpoint"
    spaces: list[Space] = []  # checked before a model is built

    def build(facts: dict[str, Any]) -> RobotModel:
        spaces.append(Space.from_dict(facts["space"]))
        return RobotModel(shape_of(facts["shape"]))

    model, facts = export.read(folder, build, device, _check_format, again)
    return model, spaces[0], facts


def find(folder: Path) -> Path:
    """The export in a folder: itself, or that of a run.

    Raises:
        UserError: there is none.
    """
    if found := export.holds_export(folder):
        return found
    raise UserError(
        f"{folder} holds no fine-tuned model ({export.WEIGHTS} and {export.CONFIG}): name the "
        "--out of a `handloom train finetune` that has finished, or its `export` folder."
    )


def shape_of(plain: dict[str, Any]) -> RobotShape:
    """A shape from JSON, of former versions too.

    Raises:
        ValueError: it lets states into the pictures, which this version cannot.
    """
    head = dict(plain["head"])
    if head.pop("state_to_images", False):
        raise ValueError("it was trained with --head.state-to-images, which is gone")
    return RobotShape(
        **{
            **plain,
            "trunk": Shape(**plain["trunk"]),
            "views": tuple(plain["views"]),
            "grippers": tuple(plain["grippers"]),
            "head": HeadOptions(**head),
        }
    )


def _check_format(folder: Path, facts: dict[str, Any]) -> None:
    kind = (facts.get("format"), facts.get("version"))
    if kind == ("handloom-gpt", 1):
        raise UserError(
            f"{folder} is a model of stage 1, which has no actions: fine-tune it with `handloom "
            f"train finetune --stage1 {folder}`."
        )
    if kind != (FORMAT, VERSION):
        raise UserError(
            f"{folder / export.CONFIG} is of format {kind[0]} {kind[1]}, this handloom reads "
            f"{FORMAT} {VERSION}: update handloom, or fine-tune again."
        )
