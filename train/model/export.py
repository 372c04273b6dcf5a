"""A trained model as two files that `handloom generate` and other programs load.

OUT/export/model.safetensors    the weights, float32
OUT/export/config.json          format, shape, step, tokenizer, text encoder; written last
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.files import whole, write_text
from handloom.train.model.gpt import GPT
from handloom.train.model.shape import Shape
from handloom.train.trainer.checkpoints import load_tensors, read_run

FORMAT, VERSION = "handloom-gpt", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
Model = TypeVar("Model", bound=nn.Module)


def save(folder: Path, model: GPT, shape: Shape, facts: dict[str, Any]) -> None:
    """Write a model that this process holds whole.

    Args:
        folder: to write; what it held is replaced.
        model: with `shape`.
        shape: of the model.
        facts: plain JSON beside it: `step`, `tokenizer`, `text_encoder`, ….
    """
    config = {"format": FORMAT, "version": VERSION, "shape": asdict(shape), **facts}
    write(folder, model, config)


def write(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write the weights of a module and its config.json, whole or not at all."""
    from safetensors.torch import save_file

    with whole(folder) as partial:
        partial.mkdir()
        weights = {name: t.cpu().contiguous() for name, t in model.state_dict().items()}
        save_file(weights, partial / WEIGHTS)
        write_text(partial / CONFIG, json.dumps(config, indent=2) + "\n")


def load(folder: Path, device: str = "cpu") -> tuple[GPT, dict[str, Any]]:
    """Load a model of stage 1.

    Args:
        folder: of an export, or of the run that holds one in `export/`.
        device: a torch device.

    Returns:
        The model, in evaluation mode, and the facts of its config.json.

    Raises:
        UserError: there is no export, it is of a newer format, or it is damaged.
    """
    folder = find(folder)
    again = f"write it again with `handloom train export --out {folder.parent}`"
    return read(folder, lambda facts: GPT(Shape(**facts["shape"])), device, _check_format, again)


def read(
    folder: Path,
    build: Callable[[dict[str, Any]], Model],
    device: str,
    check: Callable[[Path, dict[str, Any]], None],
    again: str,
) -> tuple[Model, dict[str, Any]]:
    """Read a model that `write` has written.

    Args:
        folder: holds both files.
        build: a model of the shape that the facts say.
        device: a torch device.
        check: raises a UserError where the facts are of another format.
        again: advice for a message where it cannot be read.

    Raises:
        UserError: it is damaged, or what `check` raises.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        check(folder, facts)
        model = build(facts)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} does not load as a model of handloom ({str(error).splitlines()[0][:200]}): "
            f"{again}."
        ) from error
    return model.to(device).eval(), facts


def holds_export(folder: Path) -> Path | None:
    """The export in a folder, itself or that of a run; None where there is none."""
    for place in (folder, folder / "export"):
        if (place / CONFIG).is_file() and (place / WEIGHTS).is_file():
            return place
    return None


def find(folder: Path) -> Path:
    """The export in a folder: itself, or that of a run.

    Raises:
        UserError: there is none.
    """
    if found := holds_export(folder):
        return found
    if (folder / "checkpoints" / "latest").is_file():
        raise UserError(
            f"{folder} holds a run that is not exported yet: `handloom train export --out "
            f"{folder}` does that."
        )
    raise UserError(
        f"{folder} holds no exported model ({WEIGHTS} and {CONFIG}): name the folder of a run that "
        "`handloom train pretrain` has finished, or its `export` folder."
    )


def from_checkpoint(out: Path) -> Path:
    """Export the newest checkpoint of a run, in one process, whatever number of them wrote it.

    Returns:
        The folder of the export.

    Raises:
        UserError: the run has no checkpoint.
        RunError: the checkpoint cannot be read.
    """
    run = read_run(out / "checkpoints")
    if run is None:
        raise UserError(
            f"{out} holds no checkpoint to export: name the --out of `handloom train pretrain`, "
            "after its first --save-every steps."
        )
    path, facts = run
    shape = Shape(**facts["shape"])
    model = GPT(shape)
    load_tensors(path, {"model": dict(model.named_parameters())})
    save(out / "export", model, shape, {"step": facts["step"], **facts["export"]})
    print(f"wrote {out / 'export'}: the model after step {facts['step']:,}")
    return out / "export"


def _check_format(folder: Path, facts: dict[str, Any]) -> None:
    kind = (facts.get("format"), facts.get("version"))
    if kind != (FORMAT, VERSION):
        raise UserError(
            f"{folder / CONFIG} is of format {kind[0]} {kind[1]}, this handloom reads "
            f"{FORMAT} {VERSION}: update handloom, or export again."
        )


@torch.no_grad()
def whole_copy(shape: Shape, weights: dict[str, Tensor]) -> GPT:
    """A model that holds copies of these weights, on their device."""
    model = GPT(shape)
    model.load_state_dict(weights)
    return model.to(next(iter(weights.values())).device).eval()
