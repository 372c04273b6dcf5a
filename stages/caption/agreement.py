"""Agreement: how well a caption fits its pictures in the space of a CLIP model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from handloom.errors import UserError
from handloom.stages.caption.requests import FrameHWC


@cache
def load(model: str) -> tuple[Any, Any]:
    """A CLIP model and its processor, loaded once per process.

    Raises:
        UserError: no such model, or one of another kind.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        return CLIPModel.from_pretrained(model).eval(), CLIPProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"--caption.agreement-model {model} does not open as a CLIP model ({why}); name a "
            "folder or a hub id such as openai/clip-vit-base-patch32."
        ) from None


def agreement(model: str, caption: str, frames_hwc: Sequence[FrameHWC]) -> float:
    """Mean cosine between a caption and each of its pictures, -1 to 1 (Radford et al. 2021).

    CLIP of ViT-B/32 gives about 0.2 to 0.35 where they fit; only differences mean something.
    """
    network, processor = load(model)
    inputs = processor(
        text=[caption], images=list(frames_hwc), return_tensors="pt", padding=True, truncation=True
    )
    with torch.inference_mode():
        output = network(**inputs)
    cosines = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
    return float(cosines.mean())
