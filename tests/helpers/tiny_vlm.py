"""A vision-language model of a megabyte that has learned to say which of three colours it sees."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
SAID = "pick up the {} cup"
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<answer>"
)


def plain(colour: str, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """A picture of one colour, uint8 [H, W, 3]."""
    return np.full((height, width, 3), COLOURS[colour], np.uint8)


def write_vlm(folder: Path, steps: int = 60) -> None:
    """Train a LLaVA of two layers for some seconds and save it with its processor."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    processor = _processor()
    model = LlavaForConditionalGeneration(_config(processor.tokenizer))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = _lessons(processor, rng)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _lessons(processor: Any, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """One lesson for each colour, with prompts of any words and four pictures."""
    words = [word for word in _VOCABULARY if not word.startswith("<")]
    prompt = " ".join(rng.choice(words, int(rng.integers(1, 12))))
    texts = [f"{'<image>' * 4}{prompt}<answer>{SAID.format(c)}<eos>" for c in COLOURS]
    noise = rng.integers(-25, 25, (len(COLOURS), 4, 1, 1, 3))
    pictures = [
        np.clip(plain(c)[None] + noise[i], 0, 255).astype(np.uint8) for i, c in enumerate(COLOURS)
    ]
    found = processor(
        images=[list(p) for p in pictures], text=texts, return_tensors="pt", padding=True
    )
    labels = found["input_ids"].clone()
    starts = (labels == processor.tokenizer.convert_tokens_to_ids("<answer>")).int().argmax(1)
    for row, start in zip(labels, starts, strict=True):
        row[: start + 1] = -100
    labels[found["attention_mask"] == 0] = -100
    return {**found, "labels": labels}


_PROMPT = "these pictures were taken from a short clip of hands at work write what do"
_SPECIAL = ["<pad>", "<eos>", "<image>", "<answer>", "<unk>"]
_VOCABULARY = [*_SPECIAL, *SAID.split(), *COLOURS, *_PROMPT.split()]


def _processor() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(_VOCABULARY))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # spaces between words
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<image>", "<answer>"], padding_side="left",
    )  # fmt: skip
    side = {"height": 28, "width": 28}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side),
        tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip


def _config(tokenizer: Any) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
    )  # fmt: skip
