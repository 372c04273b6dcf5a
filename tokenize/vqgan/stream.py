"""Encode clip after clip while the next ones are being read.

Reading (decoding video, cropping) and encoding take turns otherwise, and a GPU idles through every
turn. Here a thread reads ahead, and frames of neighbouring clips share the batches. In `exact` mode
a frame's codes do not depend on its batch, so the codes are those that clip by clip would give.

T frames of a clip, S side of a frame, I x J codes.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.tokenize.vqgan.codec import GPU_BATCH, VQGAN

CLIPS_AHEAD = 8
BATCHES_TOGETHER = 4  # encoded in one call: uploading one overlaps with encoding another
_END = object()


def encode_stream(
    tokenizer: VQGAN, clips: Iterable[NDArray[np.uint8]], ahead: int = CLIPS_AHEAD
) -> Iterator[NDArray[np.uint16]]:
    """Encode clips in order.

    Args:
        tokenizer: any tokenizer; `exact`, where codes must not depend on the neighbours.
        clips: each uint8 [T, S, S, 3], T of any size, also 0. Iterated in a thread of its own.
        ahead: clips that are read and wait; memory is bounded by this many, the frames of the
            batches being encoded, and one clip more.

    Yields:
        uint16 [T, I, J] for each clip.

    Raises:
        Whatever iterating over `clips` raises, after the clips before it.
    """
    waiting: list[NDArray[np.uint8]] = []
    frames = 0
    for clip in read_ahead(clips, ahead):
        waiting.append(clip)
        frames += len(clip)
        if frames >= GPU_BATCH * BATCHES_TOGETHER or tokenizer.device == "cpu":
            yield from _encode(tokenizer, waiting)
            waiting, frames = [], 0
    yield from _encode(tokenizer, waiting)


def _encode(tokenizer: VQGAN, clips: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint16]]:
    if clips:
        codes_tij = tokenizer.encode(np.concatenate(clips))
        yield from np.split(codes_tij, np.cumsum([len(clip) for clip in clips])[:-1])


def read_ahead(items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Iterate in a thread, at most `ahead` items in front of the consumer; errors come through.

    A consumer that stops early stops the thread at its next item.
    """
    ready: queue.Queue[Any] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # carried to the consumer, who raises it
            put((_END, error))

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
