"""Frozen text encoders: captions in, one feature vector per token out.

Three kinds behind one class: a CLIP or BERT text model from a folder or the hub; `minilm`, a BERT
that comes as a package (bert.py) and knows that mug and cup are near; and `seeded`, a small CLIP
with random weights from a fixed seed. The last needs no download. It knows no language, but
distinguishes words and their order, which is what a small corpus can use.

Shapes: B captions, L tokens a caption, E width of the encoder.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handloom.errors import UserError, first_line
from handloom.tokenize.hub import HUB_ID, from_hub
from handloom.train.model import bert

CACHED_CAPTIONS = 8_192  # at L = 24 and E = 512 about 0.4 GB
HUB_FILES = ["config.json", "model.safetensors", "*token*.json", "vocab.json", "merges.txt"]

Tokenize = Callable[[str], list[int]]


class TextEncoder:
    """A frozen text model with its tokenizer and a cache of captions already encoded.

    `read` and `cut` count the captions it has encoded and those that were too long.

    Args:
        name: folder, hub id, `minilm` or `seeded`; see `load`.
        network: a transformers `CLIPTextModel`, or a `BertText`.
        tokenize: caption to token ids, start and end included.
        length: L; longer captions are cut.
        device: where the network runs and the features are.
        spacing_s: None, or seconds between frames where a call names none: features then begin
            with one more vector, that of the spacing.

    Attributes:
        words: L without the vector of the spacing: tokens of a caption.
        length: L.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        tokenize: Tokenize,
        length: int,
        device: str,
        spacing_s: float | None = None,
    ) -> None:
        config: Any = network.config
        if not 2 < length <= config.max_position_embeddings:
            raise UserError(
                f"--text-length {length} does not fit this text encoder: it must be between 3 and "
                f"{config.max_position_embeddings}."
            )
        self.name = name
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenize = lru_cache(CACHED_CAPTIONS)(tokenize)
        self.words, self.device, self.spacing_s = length, device, spacing_s
        self.length = length + (spacing_s is not None)
        self.width: int = config.hidden_size
        self.weights_sha256 = _hash_weights(network)
        self.read = self.cut = 0
        self._features = lru_cache(CACHED_CAPTIONS)(self._compute)

    @property
    def facts(self) -> dict[str, Any]:
        """Name, hash and length, as plain JSON: exports record them, `load_again` reads them."""
        facts = {"name": self.name, "weights_sha256": self.weights_sha256, "length": self.words}
        return facts if self.spacing_s is None else facts | {"spacing_s": self.spacing_s}

    def __call__(
        self, captions: list[str], spacings_s: Sequence[float | None] | None = None
    ) -> Tensor:
        """Features float32 [B, L, E], zero behind the end of a caption.

        Args:
            captions: B of them.
            spacings_s: seconds between the frames of each clip, None where they are not known;
                heeded by an encoder with a spacing alone.
        """
        text_BLE = self._encode(captions)
        if self.spacing_s is None:
            return text_BLE
        known = [s or self.spacing_s for s in spacings_s or [None] * len(captions)]
        spacing_B1E = spacing_features(known, self.width).to(text_BLE.device)[:, None]
        return torch.cat([spacing_B1E, text_BLE], dim=1)

    def _encode(self, captions: list[str]) -> Tensor:
        ids = [self._tokens(caption) for caption in captions]
        if torch.device(self.device).type == "cuda":
            return self.together(ids)
        return torch.stack([self._features(tuple(row)) for row in ids])

    @torch.no_grad()
    def together(self, ids: list[list[int]]) -> Tensor:
        """Features of a whole batch at once, for a GPU: many small kernels would cost it more.

        What follows a caption's end does not reach it: CLIP's attention is causal, and a `BertText`
        masks what stands behind the end, which is repeated here. Nothing is kept:
        the last digits may depend on the batch, but a batch then gives the same ones each time.
        """
        width = self.words
        ids_BL = torch.tensor([row + row[-1:] * (width - len(row)) for row in ids])
        ends_B1 = torch.tensor([[len(row)] for row in ids])
        if torch.device(self.device).type == "cuda":  # from page-locked memory nobody waits
            ids_BL, ends_B1 = ids_BL.pin_memory(), ends_B1.pin_memory()
        ids_BL = ids_BL.to(self.device, non_blocking=True)
        ends_B1 = ends_B1.to(self.device, non_blocking=True)
        features_BLE: Tensor = self.network(input_ids=ids_BL).last_hidden_state.float()
        inside_BL = torch.arange(width, device=self.device) < ends_B1
        return features_BLE * inside_BL[..., None]

    def _tokens(self, caption: str) -> list[int]:
        """Token ids of a caption, cut and counted."""
        ids = self.tokenize(caption)
        self.read += 1
        self.cut += len(ids) > self.words
        return ids if len(ids) <= self.words else [*ids[: self.words - 1], ids[-1]]

    @torch.no_grad()
    def _compute(self, ids: tuple[int, ...]) -> Tensor:
        # One caption at a time: features must not depend on which captions share a batch, or a
        # resumed run would differ in the last digits.
        features_LE = torch.zeros(self.words, self.width, device=self.device)
        out = self.network(input_ids=torch.tensor([ids], device=self.device))
        features_LE[: len(ids)] = out.last_hidden_state[0].float()
        return features_LE


def spacing_features(spacings_s: Sequence[float], width: int) -> Tensor:
    """Spacings of frames in seconds as vectors float32 [B, E] of length sqrt(E).

    Sines and cosines of their logarithm, as positions are encoded (arXiv 1706.03762): from one
    turn in a factor of 500 to a turn in one of 1.5.
    """
    rate_p = torch.logspace(0, 4, (width + 1) // 2, base=2.0)
    turn_Bp = torch.tensor(spacings_s, dtype=torch.float32).log()[:, None] * rate_p
    return 2**0.5 * torch.cat([turn_Bp.sin(), turn_Bp.cos()], dim=1)[:, :width]


def load(
    name: str, length: int, device: str = "cpu", spacing_s: float | None = None
) -> TextEncoder:
    """Load a frozen text encoder.

    Args:
        name: `seeded`, `minilm`, a folder with a CLIP or BERT checkpoint, or a hub id such as
            `openai/clip-vit-base-patch32`.
        length: tokens a caption.
        device: a torch device.
        spacing_s: as of `TextEncoder`.

    Raises:
        UserError: no such folder, neither CLIP nor BERT, a package that is not installed, or a hub
            that cannot be reached.
    """
    if name == "seeded":
        return TextEncoder(name, _seeded_network(), hash_words, length, device, spacing_s)
    folder = bert.minilm_folder() if name == "minilm" else Path(name).expanduser()
    network, tokenize = _read(folder) if folder.is_dir() else _from_hub(name)
    return TextEncoder(name, network, tokenize, length, device, spacing_s)


def load_again(facts: dict[str, Any], place: str | None = None, device: str = "cpu") -> TextEncoder:
    """Load the text encoder that a model was trained with.

    Args:
        facts: of it, as the model's export holds them.
        place: folder or hub id; by default that of the training.
        device: a torch device.

    Raises:
        UserError: it is not there, or is another one.
    """
    name = place or facts["name"]
    encoder = load(name, facts["length"], device, facts.get("spacing_s"))
    if encoder.weights_sha256 != facts["weights_sha256"]:
        raise UserError(
            f"{name} holds the text encoder {encoder.weights_sha256[:12]}, and the model was "
            f"trained with {facts['name']} ({facts['weights_sha256'][:12]}): name the folder of "
            "that one with --text-encoder."
        )
    return encoder


WORDS = 4_096  # ids 0 and 1 start and end a caption, the others are hashes of words
START, END = 0, 1


def hash_words(caption: str) -> list[int]:
    """Token ids of a caption without a vocabulary: a word's id is a hash of its letters."""
    ids = [START]
    for word in re.findall(r"\w+", caption.lower()):
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        ids.append(2 + int.from_bytes(digest, "little") % (WORDS - 2))
    return [*ids, END]


def _seeded_network() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    network: nn.Module = CLIPTextModel(config)
    # Our own draw, so that the weights do not follow how transformers initialises this year.
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            std = 1.0 if "token_embedding" in name else 0.5 * parameter.shape[1] ** -0.5
            nn.init.normal_(parameter, std=std, generator=generator)
    return network


def _read(folder: Path) -> tuple[nn.Module, Tokenize]:
    """Network and tokenizer of a CLIP or BERT checkpoint."""
    from transformers import AutoConfig, CLIPTextModel, CLIPTokenizer

    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind == "bert":
            return bert.read(folder)
        if kind not in ("clip", "clip_text_model"):
            raise ValueError(f"its config.json is of a model of type {kind!r}")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        network: nn.Module = CLIPTextModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} does not load as a CLIP or BERT text encoder ({first_line(error)}): "
            "expected config.json, model.safetensors, vocab.json and merges.txt as `hf download "
            "openai/clip-vit-base-patch32` writes them."
        ) from error
    return network, lambda caption: list(tokenizer(caption)["input_ids"])


def _from_hub(name: str) -> tuple[nn.Module, Tokenize]:
    if not re.fullmatch(HUB_ID, name):
        raise UserError(
            f"no text encoder at {name!r}: name a folder with a CLIP checkpoint, a hub id such as "
            "openai/clip-vit-base-patch32, `minilm` or `seeded`."
        )
    return from_hub(name, HUB_FILES, _read, ", bring DIR here and pass `--text-encoder DIR`.")


def _hash_weights(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
