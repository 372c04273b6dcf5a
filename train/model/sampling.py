"""Codes drawn from a model's distributions, one after another, with a cache of earlier positions.

Shapes: B clips, n codes in one or more whole frames, K codebook size, N codes of a clip as the
model takes them, L and E as in `gpt.py`.
"""

import torch
from torch import Tensor

from handloom.train.generate.config import Sampling
from handloom.train.model.gpt import GPT, Cache

LIKELIEST = Sampling()


@torch.no_grad()
def continue_frames(
    model: GPT, given_Bn: Tensor, text_BLE: Tensor, frames: int, how: Sampling = LIKELIEST
) -> Tensor:
    """Continue clips to any number of frames.

    Up to the frames that the model was trained on, all that is there is in sight. Beyond, the
    window slides: each further frame is predicted as the last one of a clip that begins with the
    newest frames, which is a fresh pass over them.

    Args:
        model: in evaluation mode.
        given_Bn: int64, whole frames, at least one.
        text_BLE: features of the captions.
        frames: in all, those given included.
        how: codes are drawn.

    Returns:
        int64 [B, frames x codes a frame], beginning with those given.
    """
    shape, codes_Bn = model.shape, given_Bn
    generator = torch.Generator(given_Bn.device).manual_seed(how.seed)
    each, in_sight = shape.codes_per_frame, (shape.frames - 1) * shape.codes_per_frame
    while codes_Bn.shape[1] < frames * each:
        window_Bn = codes_Bn[:, -in_sight:]
        room = min(shape.codes - window_Bn.shape[1], frames * each - codes_Bn.shape[1])
        added_Bn = _add(model, window_Bn, text_BLE, room, how, generator)
        codes_Bn = torch.cat([codes_Bn, added_Bn], dim=1)
    return codes_Bn


@torch.no_grad()
def predict_each_frame(model: GPT, codes_BN: Tensor, text_BLE: Tensor) -> Tensor:
    """Predict every frame but the first from the true frames before it (temporal teacher forcing).

    Inside a frame the model goes on from its own codes, each the likeliest.

    Returns:
        int64 [B, N - codes of frame 0].
    """
    each = model.shape.codes_per_frame
    starts = range(each, codes_BN.shape[1], each)
    parts = [_add(model, codes_BN[:, :s], text_BLE, each, LIKELIEST, None) for s in starts]
    return torch.cat(parts, dim=1)


def _add(
    model: GPT,
    given_Bn: Tensor,
    text_BLE: Tensor,
    count: int,
    how: Sampling,
    generator: torch.Generator | None,
) -> Tensor:
    cache = Cache(model.shape, len(given_Bn), given_Bn.device)
    added = [choose(model.extend(given_Bn, cache, text_BLE), how, generator)]
    while len(added) < count:
        added.append(choose(model.extend(added[-1], cache), how, generator))
    return torch.cat(added, dim=1)


def choose(logits_BK: Tensor, how: Sampling, generator: torch.Generator | None) -> Tensor:
    """Draw a code for each clip: int64 [B, 1]. Without temperature the likeliest; of equals one."""
    if how.temperature == 0:
        return logits_BK.argmax(-1, keepdim=True)
    logits_BK = logits_BK.float() / how.temperature
    if how.top_k is not None:
        least_B1 = logits_BK.topk(min(how.top_k, logits_BK.shape[-1])).values[:, -1:]
        logits_BK = logits_BK.masked_fill(logits_BK < least_B1, -torch.inf)
    if how.top_p is not None:
        logits_BK = _nucleus(logits_BK, how.top_p)
    return torch.multinomial(logits_BK.softmax(-1), 1, generator=generator)


def _nucleus(logits_BK: Tensor, share: float) -> Tensor:
    """Only the fewest likeliest codes that have this share of the probability (1904.09751)."""
    sorted_BK, order_BK = logits_BK.sort(descending=True, stable=True)
    p_BK = sorted_BK.softmax(-1)
    # A code stays while those before it have not reached the share, so the likeliest always does.
    outside_BK = p_BK.cumsum(-1) - p_BK >= share
    return logits_BK.masked_fill(outside_BK.gather(1, order_BK.argsort(-1)), -torch.inf)
