"""The weights of an exported model as the start of a run, checked against its data and options."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards import sha256_file
from handloom.train.model import export
from handloom.train.model.shape import SIZES, Shape
from handloom.train.model.text import TextEncoder

OPTIONS = {
    "frames": "--frames",
    "views": "--views",
    "rows": "--shards of that tokenizer and resolution",
    "cols": "--shards of that tokenizer and resolution",
    "text_length": "--text-length and --spacing-input",
}


def load(
    folder: Path, shape: Shape, tokenizer: dict[str, Any], encoder: TextEncoder
) -> tuple[dict[str, Tensor], str]:
    """Weights of an exported model of stage 1.

    Args:
        folder: of the export, or of its run.
        shape: that the run's model has.
        tokenizer: of the shards.
        encoder: of captions.

    Returns:
        The weights by name, and their hash.

    Raises:
        UserError: the model reads other codes or texts, or has another shape.
    """
    model, facts = export.load(folder)
    own, other = facts["tokenizer"], tokenizer
    if own["weights_sha256"] != other["weights_sha256"]:
        raise UserError(
            f"--init {folder} was trained on codes of the tokenizer {own['name']} "
            f"({own['weights_sha256'][:12]}), and the shards hold those of {other['name']} "
            f"({other['weights_sha256'][:12]}): name shards of that one."
        )
    _refuse_another_shape(folder, asdict(model.shape), asdict(shape))
    words = facts["text_encoder"]
    if words["weights_sha256"] != encoder.weights_sha256:
        raise UserError(
            f"--init {folder} was trained with the text encoder {words['name']} "
            f"({words['weights_sha256'][:12]}), and --text-encoder {encoder.name} is "
            f"{encoder.weights_sha256[:12]}: pass --text-encoder with that one."
        )
    return model.state_dict(), sha256_file(export.find(folder) / export.WEIGHTS)


def _refuse_another_shape(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    names = [name for name in here if there[name] != here[name]]
    if not names:
        return
    listed = ", ".join(f"{name} is {there[name]} there and {here[name]} here" for name in names)
    advice = [OPTIONS[name] for name in names if name in OPTIONS]
    kinds = {tuple(size): name for name, size in SIZES.items()}
    size = kinds.get((there["layers"], there["width"], there["heads"]))
    if {"layers", "width", "heads"} & set(names) and size:
        advice.insert(0, f"--size {size}")
    raise UserError(
        f"--init {folder} holds a model of another shape ({listed}), and its weights do not fit: "
        f"pass {' and '.join(dict.fromkeys(advice)) or 'an --init of that shape'}, or leave --init "
        "out."
    )
