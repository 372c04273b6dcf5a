"""`handloom generate`: load, continue, write, measure.

    OUT/<name>.mp4, .gif, .png, .tokens.npy     name is the clip's id or the picture's file name
    OUT/scores.json                             where the truth is known

Shapes: V views, F frames in all, f frames given, R rows, C columns, H x W pixels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from handloom.errors import UserError
from handloom.files import write_text
from handloom.train.generate import fvd, pictures, quality
from handloom.train.generate.config import GenerateConfig
from handloom.train.generate.pictures import Comparison
from handloom.train.generate.prompts import Prompt, find
from handloom.train.generate.quality import PredictedView
from handloom.train.model import continuation, export, text
from handloom.train.model.shape import Shape
from handloom.train.pretrain import true_frames
from handloom.train.pretrain.data import Wanted


def run(config: GenerateConfig) -> None:
    """Continue what the configuration names, one after another."""
    model, facts = export.load(config.checkpoint, config.device)
    tokenizer = pictures.load_tokenizer(
        facts["tokenizer"], config.tokenizer, config.device, config.threads
    )
    encoder = text.load_again(facts["text_encoder"], config.text_encoder, config.device)
    wanted = Wanted.from_facts(facts)
    prompts = find(config, model.shape, facts["tokenizer"], tokenizer, encoder, wanted)
    distance, network = _metrics(config)
    frames = config.frames or model.shape.frames
    _refuse_nothing_to_do(prompts, frames, model.shape)
    config.out.mkdir(parents=True, exist_ok=True)
    shown: list[PredictedView] = []
    for prompt in prompts:
        text_1LE = encoder([prompt.text], [1 / prompt.fps])
        predicted = continuation.continue_clip(model, prompt.given_VfRC, text_1LE, frames, config)
        np.save(config.out / f"{prompt.name}.tokens.npy", predicted)
        video = pictures.decode(predicted, tokenizer)
        true = (
            None if prompt.sample is None else pictures.decode(prompt.sample["tokens"], tokenizer)
        )
        write(prompt, video, true, config.out)
        if prompt.sample is not None and true is not None:
            read = true_frames.read(config.shards, [prompt.sample], tokenizer)
            source = read.get(prompt.name)
            given = prompt.given_VfRC.shape[1]
            shown += continuation.predicted_views(prompt.dataset, given, video, true, source)
    if shown:
        found = quality.scores(shown, distance, network)
        write_text(config.out / "scores.json", json.dumps(found, indent=2) + "\n")
        print("\n".join(quality.table(found)))


def write(prompt: Prompt, video_VFHW3: Any, true_VFHW3: Any | None, out: Path) -> None:
    """Write the files of one prompt; views stand side by side in the videos."""
    given = prompt.given_VfRC.shape[1]
    comparisons = [
        Comparison(
            prompt.text,
            given,
            view,
            None if true_VFHW3 is None else true_VFHW3[v],
            view[np.minimum(np.arange(len(view)), given - 1)] if given else None,
        )
        for v, view in enumerate(video_VFHW3)
    ]
    side_by_side = np.concatenate(list(video_VFHW3), axis=2)
    pictures.draw(comparisons, out / f"{prompt.name}.png")
    pictures.write_gif(side_by_side, prompt.fps, out / f"{prompt.name}.gif")
    pictures.write_mp4(side_by_side, prompt.fps, out / f"{prompt.name}.mp4")
    print(f"wrote {out / prompt.name}.mp4, .gif, .png, .tokens.npy: {prompt.text!r}", flush=True)


def _metrics(config: GenerateConfig) -> tuple[Any, fvd.Network | None]:
    """LPIPS and the network of FVD, loaded before minutes of generating are spent."""
    distance = None
    if config.lpips is not None:
        from handloom.tokenize.measure import lpips

        distance = lpips.load(config.lpips, config.device)
    return distance, fvd.load(config.i3d, config.device) if config.i3d is not None else None


def _refuse_nothing_to_do(prompts: list[Prompt], frames: int, shape: Shape) -> None:
    given = max(prompt.given_VfRC.shape[1] for prompt in prompts)
    if given >= frames:
        raise UserError(
            f"{given} frames are given and {frames} are wanted in all (the model was trained on "
            f"{shape.frames}), so none is left to predict: lower --given or raise --frames."
        )
