"""Costs of captions by a model: estimated before a run, counted after it; and what was wasted.

Prices are read from a file and never built in: they change from month to month.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from handloom.errors import UserError
from handloom.pipeline.batches import count_remaining
from handloom.pipeline.job import Job
from handloom.stages.caption.stage import Caption
from handloom.stages.report.captions import effort_line, tally
from handloom.stages.tables.parts import effort, read_marker

# Assumptions until a run has measured.
SECOND_TRIES = 0.05  # share of the clips
COMPLETION_TOKENS = 18.0
HINT_TOKENS = 20.0
CHARACTERS_A_TOKEN = 4.0  # of English prose
PIXELS_A_TOKEN = 28 * 28  # of a picture: Qwen2-VL and its successors
ASPECT = 9 / 16


@dataclass(frozen=True)
class Prices:
    """Prices of one model; costs without an entry in the file are left out.

    Attributes:
        million_prompt_tokens: money for a million tokens of text and pictures that are sent.
        million_completion_tokens: money for a million tokens of answers.
        gpu_hour: money for an hour of one GPU.
        requests_per_gpu_second: requests that one GPU answers per second.
        tokens_per_picture: where it is not one token for each 28 x 28 pixels.
    """

    million_prompt_tokens: float | None = None
    million_completion_tokens: float | None = None
    gpu_hour: float | None = None
    requests_per_gpu_second: float | None = None
    tokens_per_picture: float | None = None
    currency: str = ""


@dataclass(frozen=True)
class Usage:
    """Requests and tokens of a run, counted or estimated."""

    requests: float
    prompt_tokens: float
    completion_tokens: float


def read_prices(path: Path, model: str) -> Prices:
    """The prices of a model from a file of prices by model; `default` stands for all others.

    Raises:
        UserError: no such file, another layout, or nothing about the model.
    """
    try:
        stored = yaml.safe_load(path.read_text()) or {}
        models = stored["models"]
        entry = models.get(model) or models.get("default")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"--caption.prices {path} cannot be used ({why}); expected YAML with `models:`, and "
            "below it the prices of each model by its name (docs/captions.md)."
        ) from None
    if not isinstance(entry, dict):
        raise UserError(
            f"{path} tells no price of {model!r}, only of {', '.join(map(str, models))}; add it, "
            "or a `default`."
        )
    return _checked(path, entry, str(stored.get("currency", "")))


def _checked(path: Path, entry: dict[str, Any], currency: str) -> Prices:
    names = {f.name for f in fields(Prices)} - {"currency"}
    for name, value in entry.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in names or not (is_number and value >= 0 and math.isfinite(value)):
            raise UserError(
                f"{path} says {name}: {value!r}, expected numbers named {', '.join(sorted(names))}."
            )
    return Prices(**entry, currency=currency)


def estimate(stage: Caption, clips: int, prices: Prices) -> Usage:
    """Usage of a stage, from the assumptions above."""
    pixels = stage.resolution**2 * ASPECT
    picture = prices.tokens_per_picture or pixels / PIXELS_A_TOKEN
    text = len(stage.instructions.text) / CHARACTERS_A_TOKEN + HINT_TOKENS * stage.hint
    requests = clips * (1 + SECOND_TRIES)
    return Usage(requests, requests * (stage.frames * picture + text), requests * COMPLETION_TOKENS)


def costs(usage: Usage, prices: Prices) -> list[str]:
    """GPU-hours, their price and the tokens' price, as far as the price file has them."""
    parts = []
    if prices.requests_per_gpu_second:
        hours = usage.requests / prices.requests_per_gpu_second / 3600
        rate = f"{prices.requests_per_gpu_second:g} requests/s a GPU"
        money = "" if prices.gpu_hour is None else f" = {_money(hours * prices.gpu_hour, prices)}"
        parts.append(f"{hours:,.2f} GPU-hours at {rate}{money}")
    if prices.million_prompt_tokens is not None or prices.million_completion_tokens is not None:
        price = usage.prompt_tokens * (prices.million_prompt_tokens or 0)
        price += usage.completion_tokens * (prices.million_completion_tokens or 0)
        parts.append(f"{_money(price / 1e6, prices)} for tokens")
    return parts


def planned(job: Job, listed: int) -> list[str]:
    """Lines of `plan` on captions by a model; none without a model.

    Args:
        job: the planned run.
        listed: clips that the annotations list, for when none have been selected yet.
    """
    stage = job.stages["caption"]
    if not isinstance(stage, Caption) or not stage.asks:
        return []
    prices = _prices(stage)
    is_selected = bool(job.tables[job.flow["caption"]].parts())
    clips = (count_remaining(job, "caption") or 0) if is_selected else listed
    usage, basis = _expected(job, stage, clips, prices)
    most = "" if is_selected else "at most "
    lines = [
        f"caption: {most}{clips:,} clips to ask {stage.model} about, "
        f"{usage.requests:,.0f} requests, {usage.prompt_tokens:,.0f} prompt + "
        f"{usage.completion_tokens:,.0f} completion tokens ({basis})"
    ]
    if parts := costs(usage, prices):
        lines.append(f"caption: {most}{'; '.join(parts)}")
    elif stage.prices is None:
        lines.append("caption: --caption.prices FILE turns this into GPU-hours and money")
    return lines


def spent(job: Job) -> list[str]:
    """Lines of a finished run on captions by a model: requests, tokens, rates and money."""
    stage = job.stages["caption"]
    if not isinstance(stage, Caption) or not stage.asks:
        return []
    counted = tally(job.tables)
    _, seconds, _ = effort(job.folder("caption"))
    line = effort_line(counted, seconds)
    usage = Usage(counted.requests, counted.prompt_tokens, counted.completion_tokens)
    parts = "; ".join(costs(usage, _prices(stage))) if line else ""
    return [f"caption: {text}" for text in (line, parts) if text]


def _expected(job: Job, stage: Caption, clips: int, prices: Prices) -> tuple[Usage, str]:
    """Usage from the captions that this run already has, else from assumptions; and which it is."""
    if job.tables[job.flow["caption"]].parts() and job.tables["caption"].parts():
        counted = tally(job.tables)
        if counted.asked:
            sums = (counted.requests, counted.prompt_tokens, counted.completion_tokens)
            usage = Usage(*(number * (clips / counted.asked) for number in sums))
            return usage, f"as the {counted.asked:,} clips so far"
    return estimate(stage, clips, prices), (
        f"assumed: {stage.frames} pictures of 16:9, {SECOND_TRIES:.0%} second tries, "
        f"{COMPLETION_TOKENS:g} tokens an answer"
    )


def _prices(stage: Caption) -> Prices:
    return read_prices(stage.prices, stage.model) if stage.prices else Prices()


def _money(amount: float, prices: Prices) -> str:
    return f"{amount:,.2f} {prices.currency}".rstrip()


def wasted(job: Job) -> str:
    """A sentence on what went ahead for nothing; empty where no stage goes ahead of its gate."""
    counts = {name: read_marker(job.folder(name)).get("rejected_after_all") for name in job.flow}
    told = [f"{name} of {count} clips" for name, count in counts.items() if count is not None]
    return (
        f"computed ahead of a gate that then rejected the clip: {', '.join(told)}" if told else ""
    )
