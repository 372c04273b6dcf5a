"""What a run says of its tokenizer: a line of numbers, and a sentence where they are bad."""

from typing import Any

from handloom.stages.pack.fidelity.measure import read
from handloom.stages.tables.parts import Tables
from handloom.tokenize.vqgan.find import SMALL

LEAST_GAIN_DB = 3.0
"""PSNR over the mean colour's below which more than half of the picture's variance is lost."""
BAD_SHARE = 0.25  # of the clips below LEAST_GAIN_DB, whatever the others are like
RENDERED_DB = {256: 24.0, 128: 20.5}
"""By side of the picture: the bundled VQGAN is better on rendered miniatures, worse on footage."""

OTHER = (
    "train one on these frames with `handloom train vqgan --frames {out}` and name it with "
    "--tokens.model, or name a published one (docs/tokenizers.md)"
)
MORE_CODES = "--tokens.model bundled gives four times the codes of a picture"


def lines(tables: Tables) -> list[str]:
    """Lines for the terminal; none where nothing was measured."""
    found = read(tables)
    return [summary(found), *advice(found, tables)] if found else []


def summary(found: dict[str, Any]) -> str:
    """All numbers in one line, and how many clips they are not of."""
    facts, unreadable = found["fidelity"], found["unreadable"]
    parts = []
    if facts:
        parts.append(f"{facts['clips']} clips decoded from their codes, {_scores(facts)}")
    if "hands" in facts:
        parts.append(f"hands {_scores(facts['hands'])}")
    if "equal_codes" in facts:
        parts.append(f"{facts['equal_codes']:.1%} of the codes as in float32")
    if unreadable:
        error = next(iter(unreadable.values()))
        parts.append(f"{len(unreadable)} clips could not be compared ({error})")
    return f"tokenizer: {'; '.join(parts)}"


def _scores(facts: dict[str, Any]) -> str:
    psnr, floor = facts["psnr_db"], facts["mean_color_psnr_db"]
    similar, least = facts["ssim"], facts["mean_color_ssim"]
    return f"PSNR {psnr:.1f} dB (mean colour {floor:.1f}), SSIM {similar:.2f} ({least:.2f})"


def advice(found: dict[str, Any], tables: Tables) -> list[str]:
    """A sentence on codes that say too little, with the way out; none where they are good.

    Args:
        found: what `measure.measured` gives.
        tables: of the run, which lie below its folder.
    """
    facts, model = found["fidelity"], found["tokenizer"]
    if not facts:
        return []
    other = OTHER.format(out=tables["tokens"].folder.parents[1])
    lost = sum(clip["gain_db"] < LEAST_GAIN_DB for clip in found["clips"])
    if _gain_db(facts) < LEAST_GAIN_DB or lost >= BAD_SHARE * facts["clips"]:
        return [
            f"the codes of {model} hardly tell what the pictures show: {lost} of {facts['clips']} "
            f"clips are less than {LEAST_GAIN_DB:g} dB better than one colour; {other}."
        ]
    if found["bundled"] and facts["psnr_db"] < RENDERED_DB.get(found["resolution"], 0.0):
        return [
            f"the bundled VQGAN was trained on rendered miniatures and does badly on these "
            f"pictures ({facts['psnr_db']:.1f} dB); {other}."
        ]
    if "hands" in facts and _gain_db(facts["hands"]) < LEAST_GAIN_DB:
        return [
            f"the codes of {model} hardly tell the shape of hands: {_gain_db(facts['hands']):.1f} "
            f"dB better than one colour; {MORE_CODES if model == SMALL else other}."
        ]
    return []


def _gain_db(facts: dict[str, Any]) -> float:
    gain: float = facts["psnr_db"] - facts["mean_color_psnr_db"]
    return gain
