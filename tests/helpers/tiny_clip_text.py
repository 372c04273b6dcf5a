"""A CLIP text model of a few kilobytes with random weights."""

import json
from pathlib import Path

import torch


def write_clip_text(folder: Path) -> Path:
    """Write the checkpoint as `hf download` would leave it; returns the folder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>"]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    config = CLIPTextConfig(
        vocab_size=len(ids),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(ids) - 2,
        eos_token_id=len(ids) - 1,
        pad_token_id=len(ids) - 1,
    )
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(folder)
    return folder
