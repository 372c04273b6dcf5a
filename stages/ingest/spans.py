"""Spans of one video that would be the same clip, made one."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from handloom.stages.datasets.source import Span


def once_each(spans: Sequence[Span], key: Callable[[Span], Hashable]) -> tuple[Span, ...]:
    """One span for each key, in the order of the first ones.

    Of several the first stays that can become a clip, if possible with a text. What the others say
    is among its further texts: two people may have told the same seconds.

    Args:
        spans: of one video.
        key: alike for spans that would be the same clip.
    """
    same: dict[Hashable, list[Span]] = {}
    for span in spans:
        same.setdefault(key(span), []).append(span)
    if len(same) == len(spans):
        return tuple(spans)
    return tuple(_one_of(group) for group in same.values())


def _one_of(spans: list[Span]) -> Span:
    if len(spans) == 1:
        return spans[0]
    kept = min(spans, key=lambda span: (bool(span.reason), not span.text))
    texts = dict.fromkeys(text for span in spans for text in (span.text, *span.other_texts))
    return replace(kept, other_texts=tuple(text for text in texts if text not in ("", kept.text)))
