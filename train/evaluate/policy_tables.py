"""The scores of a policy as lines to read."""

from collections.abc import Iterator
from typing import Any

from handloom.train.pretrain.baselines import datasets_to_print

PRINTED_TASKS = 20  # with most windows; scores.json has all


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines that say the scores of actions, latent and codes."""
    datasets = {"all": found["all"], **found["datasets"]}
    for name in datasets_to_print(datasets):
        yield from _rows(name, datasets[name])
    phrases = found.get("phrases", {})
    for name in phrases if len(phrases) > 1 else ():
        yield from _rows(f"{name} phrases", phrases[name])
    if list(phrases) == ["unseen"]:
        yield "\ntraining had none of these instructions word for word"
    tasks = [
        (row["windows"], dataset, task, row["chunks"])
        for dataset, of_task in found["tasks"].items()
        for task, row in of_task.items()
    ]
    tasks.sort(key=lambda one: (-one[0], one[1:3]))
    yield f"\n{'task':<44}windows   prior mean   mean action   gripper"
    for windows, dataset, task, row in tasks[:PRINTED_TASKS]:
        l1 = [_format(row[who]["arm_l1_std"], ".3f") for who in ("prior mean", "mean action")]
        hand = _format(row["prior mean"]["gripper_accuracy"], ".1%")
        yield f"{f'{dataset}: {task}'[:42]:<44}{windows:>7}{l1[0]:>13}{l1[1]:>14}{hand:>10}"
    if len(tasks) > PRINTED_TASKS:
        yield f"… and {len(tasks) - PRINTED_TASKS} more tasks in scores.json"


def _rows(name: str, row: dict[str, Any]) -> Iterator[str]:
    chunk = row["by_step_ahead"]["prior mean"]
    title = f"{name}, {row['windows']} windows"[:32]
    yield f"\n{title:<34}arm L1 (std)   position   rotation   gripper"
    for who, errors in row["chunks"].items():
        yield (
            f"{who:<34}{_format(errors['arm_l1_std'], '.3f'):>12}"
            f"{_format(errors.get('position_l1_mm'), '.2f', ' mm'):>11}"
            f"{_format(errors.get('rotation_l1_deg'), '.2f', ' °'):>11}"
            f"{_format(errors['gripper_accuracy'], '.1%'):>10}"
        )
    yield "by step ahead                     " + " ".join(_format(v, ".2f") for v in chunk)
    jerk = "   ".join(f"{who} {_format(v, '.1f')}" for who, v in row["jerk_m_s3"].items())
    yield f"jerk, m/s³                        {jerk}"
    nats = "   ".join(f"{view} {_format(v, '.3f')}" for view, v in row["video_nats"].items())
    yield f"next picture, nats a code         {nats}"
    spread = f"samples {_format(row.get('samples', {}).get('sample_spread_std'), '.3f')} std apart"
    if latent := row.get("latent"):
        yield (
            f"latent                            {latent['active_dimensions']} of "
            f"{latent['dimensions']} dimensions active, {_format(latent['kl_nats'], '.2f')} nats a "
            f"chunk, {spread}"
        )
    elif "samples" in row:
        yield f"draws                             {spread}"


def _format(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
