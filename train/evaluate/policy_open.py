"""Opens the shards and the tokenizer of a policy; raises UserError for those that do not fit it."""

from typing import Any

from handloom.errors import UserError
from handloom.tokenize.shards import ShardDataset
from handloom.tokenize.vqgan import VQGAN
from handloom.train.evaluate.policy_config import PolicyEval
from handloom.train.finetune.model import RobotModel
from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.episodes import described
from handloom.train.finetune.windows.folder import WindowOptions
from handloom.train.finetune.windows.windows import Windows
from handloom.train.generate.pictures import load_tokenizer
from handloom.train.trainer.options import place_and_weight


def open_windows(
    config: PolicyEval, model: RobotModel, space: Space, facts: dict[str, Any]
) -> Windows:
    """The windows of a split, cut as the policy was trained.

    Raises:
        UserError: the shards hold other codes, views, pictures, states or actions.
    """
    shape = model.shape
    datasets = []
    for place in config.shards:
        datasets.append(ShardDataset(place_and_weight(place)[0], split=config.split))
        _refuse_others(config, place, datasets[-1].manifest, space, facts)
    there = {view for data in datasets for view in data.manifest["trajectories"].get("views", [])}
    if missing := [view for view in shape.views if view not in there]:
        raise UserError(
            f"--checkpoint {config.checkpoint} looks at the views {', '.join(shape.views)}, and "
            f"--shards have {', '.join(sorted(there)) or 'none'} (not {', '.join(missing)}): name "
            "shards with these views, or fine-tune with --views of those that there are."
        )
    options = WindowOptions(shape.history, int(facts["stride"]), shape.chunk)
    windows = Windows(datasets, space, options, shape.views)
    if windows.grid != (shape.trunk.rows, shape.trunk.cols):
        raise UserError(
            f"--checkpoint {config.checkpoint} looks at pictures of {shape.trunk.rows} x "
            f"{shape.trunk.cols} codes, and --shards hold {windows.grid[0]} x {windows.grid[1]}: "
            "curate the episodes with the --tokens.resolution of its training shards."
        )
    return windows


def _refuse_others(
    config: PolicyEval, place: str, manifest: dict[str, Any], space: Space, facts: dict[str, Any]
) -> None:
    """Raise UserError for shards whose codes or numbers mean something else than the policy's."""
    own, other = facts["tokenizer"], manifest["tokenizer"]
    if own["weights_sha256"] != other["weights_sha256"]:
        raise UserError(
            f"--checkpoint {config.checkpoint} was trained on codes of the tokenizer {own['name']} "
            f"({own['weights_sha256'][:12]}), and --shards {place} hold those of {other['name']} "
            f"({other['weights_sha256'][:12]}): curate the episodes with that one as "
            "--tokens.model."
        )
    wanted = described(space.kind, space.hz, len(space.state_mean), len(space.action_mean))
    entry = manifest.get("trajectories")
    if not entry:
        raise UserError(
            f"--shards {place} hold no trajectories, and --checkpoint {config.checkpoint} wants "
            f"{wanted}: name a folder that `handloom curate` made of robot episodes."
        )
    widths = [entry.get(name, {}).get("mean") for name in ("state", "action")]
    if None in widths:  # of a split without training steps; each episode is checked below
        return
    there = described(entry["action_kind"], entry["hz"], *map(len, widths))
    if there != wanted:
        raise UserError(
            f"--shards {place} hold {there}, and --checkpoint {config.checkpoint} was trained on "
            f"{wanted}: name shards of that kind, or curate these likewise."
        )


def open_tokenizer(config: PolicyEval, facts: dict[str, Any]) -> VQGAN | None:
    """The tokenizer, or None where it is gone: actions can be measured without.

    Raises:
        UserError: the one that --tokenizer names does not fit.
    """
    if not config.clips:
        return None
    try:
        return load_tokenizer(facts, config.tokenizer, config.device, config.threads)
    except UserError as error:
        if config.tokenizer is not None:
            raise
        print(f"no pictures: {error}")
        return None
