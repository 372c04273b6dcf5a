"""A CLIP model of a few kilobytes with random weights."""

from pathlib import Path

import torch


def write_clip(folder: Path) -> None:
    """Save the model with its processor."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    words = _tokenizer()
    text = small | {"vocab_size": 16, "max_position_embeddings": 16, "eos_token_id": 1}
    vision = small | {"image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<p>", eos_token="<e>")
    side = {"height": 28, "width": 28}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)


def _tokenizer() -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = ["<p>", "<e>", "<u>", "pick", "up", "the", "red", "blue", "cup"]
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<u>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", 1)]
    )
    return words
