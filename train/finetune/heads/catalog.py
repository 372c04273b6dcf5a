"""The action heads by name."""

from typing import Any

from handloom.train.finetune.config import FlowOptions, HeadOptions
from handloom.train.finetune.heads.cvae import ConditionalVAE
from handloom.train.finetune.heads.flow import FlowMatching
from handloom.train.finetune.heads.head import ActionHead, HeadShape

HEADS: dict[str, tuple[type[ActionHead], type[Any]]] = {
    "cvae": (ConditionalVAE, HeadOptions),
    "flow": (FlowMatching, FlowOptions),
}


def make_head(name: str, shape: HeadShape, options: dict[str, Any]) -> ActionHead:
    """A head with random weights.

    Args:
        name: a key of `HEADS`.
        shape: of its inputs and outputs.
        options: of the head, as plain JSON.
    """
    kind, options_of = HEADS[name]
    return kind(shape, options_of(**options))
