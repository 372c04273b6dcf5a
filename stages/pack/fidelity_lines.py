"""What a run says of its tokenizer: a line of numbers, and a sentence where they are bad."""

from typing import Any

from handloom.stages.pack import fidelity
from handloom.stages.tables.parts import Tables


def lines(tables: Tables) -> list[str]:
    """Lines for the terminal; none where nothing was measured."""
    found = fidelity.read(tables)
    return [summary(found["fidelity"]), *advice(found)] if found else []


def summary(facts: dict[str, Any]) -> str:
    """All numbers in one line."""
    line = f"tokenizer: {facts['clips']} clips decoded from their codes, {_scores(facts)}"
    return f"{line}; hands {_scores(facts['hands'])}" if "hands" in facts else line


def _scores(facts: dict[str, Any]) -> str:
    psnr, floor, ssim = facts["psnr_db"], facts["mean_color_psnr_db"], facts["ssim"]
    return f"PSNR {psnr:.1f} dB (mean colour {floor:.1f}), SSIM {ssim:.2f}"


def advice(found: dict[str, Any]) -> list[str]:
    """Sentences on codes that say too little, with the way out; none where they are good."""
    return []
