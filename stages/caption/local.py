"""Captions from a vision-language model of `transformers` on this worker.

A clip's caption does not depend on what else is in its batch. On a CPU each clip is computed by
itself. On a GPU clips are computed together whose tensors have the same shapes, the length of the
prompt rounded up, and a batch that is not full is filled with copies: so a clip is always computed
in the same shapes, by the same kernels, and rows of a batch do not mix. Drawn answers (second
tries) are computed one by one, seeded by their request.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from handloom.errors import UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.requests import Answer, Compose, Judge, Outcome, Request

ROUND_TO = 64  # tokens; wider means fewer shapes and more padding

Inputs = dict[str, torch.Tensor]
Shape = tuple[Any, ...]


class Local:
    """A model on a device of this process.

    Args:
        model: a folder or hub id that AutoModelForImageTextToText and AutoProcessor open.
        journal: store of the answers.
        clips_at_once: size of a batch on a GPU.
        media: whether the model gets frames as pictures or as one video.
        device: torch device.

    Raises:
        UserError: no such model, or one of another kind.
    """

    def __init__(
        self,
        model: str,
        journal: Journal,
        clips_at_once: int,
        media: Literal["images", "video"] = "images",
        device: str = "cpu",
    ) -> None:
        self._journal, self._media = journal, media
        self._device = device
        is_cpu = self._device == "cpu"
        self._batch = 1 if is_cpu else clips_at_once
        self._processor, self._model = _load(model, torch.float32 if is_cpu else torch.bfloat16)
        self._model = self._model.to(self._device).eval()
        self._end_tokens = _end_tokens(self._model, self._processor.tokenizer)

    def ask_all(self, composers: Sequence[Compose], is_fine: Judge) -> list[Outcome]:
        """Caption several clips, as `Asker` says."""
        requests = [_composed(compose) for compose in composers]
        first = self._ask({i: r for i, r in enumerate(requests) if isinstance(r, Request)})
        again = {
            i: request.again()
            for i, request in enumerate(requests)
            if isinstance(request, Request)
            and isinstance(answer := first[i], Answer)
            and not is_fine(request, answer)
        }
        second = self._ask(again)
        return [
            request if isinstance(request, Exception) else _outcome(first[i], second.get(i))
            for i, request in enumerate(requests)
        ]

    def _ask(self, requests: dict[int, Request]) -> dict[int, Answer | Exception]:
        """Answers from the journal, and from the model into the journal."""
        answers: dict[int, Answer | Exception] = {}
        shapes: dict[Shape, list[tuple[int, Inputs]]] = defaultdict(list)
        for i, request in requests.items():
            if stored := self._journal.get(request.bucket, request.key):
                answers[i] = stored
                continue
            try:
                inputs = self._inputs(request)
            except Exception as error:  # a picture that the processor refuses costs its clip
                answers[i] = error
                continue
            alone = (i,) if request.temperature else ()
            shapes[(*_shape(inputs), *alone)].append((i, inputs))
        for members in shapes.values():
            for start in range(0, len(members), self._batch):
                group = dict(members[start : start + self._batch])
                for i, answer in self._generate_or_fail(requests, group):
                    answers[i] = answer
                    if isinstance(answer, Answer):
                        self._journal.put(requests[i].bucket, requests[i].key, answer)
        return answers

    def _generate_or_fail(
        self, requests: dict[int, Request], group: dict[int, Inputs]
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """Answers of a batch; one that fails is tried clip by clip, so that a clip costs itself."""
        sample = requests[next(iter(group))]
        try:
            yield from zip(group, self._generate(sample, list(group.values())), strict=True)
        except Exception as error:
            if len(group) == 1:
                yield next(iter(group)), error
                return
            for i, inputs in group.items():
                yield from self._generate_or_fail(requests, {i: inputs})

    def _inputs(self, request: Request) -> Inputs:
        """A clip's tensors, for a batch of one."""
        if self._media == "video":
            media = [{"type": "video", "video": np.stack(request.frames_hwc)}]
        else:
            media = [{"type": "image", "image": frame_hwc} for frame_hwc in request.frames_hwc]
        content = [*media, {"type": "text", "text": request.prompt}]
        options = {"do_sample_frames": False} if self._media == "video" else {}
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
        return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}

    def _generate(self, request: Request, group: list[Inputs]) -> list[Answer]:
        """Answers to clips of one shape; `request` is one of theirs, for its decoding options."""
        copies = 0 if request.temperature else self._batch - len(group)
        inputs = self._collate(group + [group[-1]] * copies)
        started = time.monotonic()
        # The seed is a function of the request, so that a second try is the same each time.
        with torch.inference_mode(), torch.random.fork_rng():
            if request.temperature:
                torch.manual_seed(int(request.key[:15], 16))
            tokens = self._model.generate(
                **inputs, max_new_tokens=request.max_tokens, **_decoding(request.temperature)
            )
        texts = tokens[:, inputs["input_ids"].shape[1] :].cpu()
        share_s = (time.monotonic() - started) / len(group)
        return [self._answer(row, one, share_s) for row, one in zip(texts, group, strict=False)]

    def _collate(self, group: list[Inputs]) -> Inputs:
        """One batch: texts padded on the left to one length, everything else end to end."""
        longest = max(one["input_ids"].shape[1] for one in group)
        if self._batch > 1:
            longest = -(-longest // ROUND_TO) * ROUND_TO
        pad = self._processor.tokenizer.pad_token_id or 0
        batch = {}
        for name in group[0]:
            parts = [one[name] for one in group]
            if _is_text(group[0], name):  # on the left, since generation goes on at the right
                fill = pad if name == "input_ids" else 0
                parts = [
                    torch.nn.functional.pad(part, (longest - part.shape[1], 0), value=fill)
                    for part in parts
                ]
            batch[name] = torch.cat(parts).to(self._device)
            if batch[name].is_floating_point():
                batch[name] = batch[name].to(self._model.dtype)
        return batch

    def _answer(self, row: torch.Tensor, inputs: Inputs, seconds: float) -> Answer:
        ends = [i for i, token in enumerate(row.tolist()) if token in self._end_tokens]
        kept = row[: ends[0]] if ends else row
        return Answer(
            text=self._processor.tokenizer.decode(kept, skip_special_tokens=True),
            is_whole=bool(ends),
            prompt_tokens=inputs["input_ids"].shape[1],
            completion_tokens=len(kept) + bool(ends),
            seconds=round(seconds, 4),
        )


def _load(model: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    is_folder = Path(model).is_dir()
    try:
        processor = AutoProcessor.from_pretrained(model, local_files_only=is_folder)
        network = AutoModelForImageTextToText.from_pretrained(
            model, dtype=dtype, local_files_only=is_folder
        )
    except ImportError as error:
        missing = " ".join(str(error).split())
        raise UserError(
            f"the model {model} needs a package that is not installed ({missing[:200]}); most "
            "processors of video need torchvision: pip install torchvision."
        ) from None
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"--caption.model {model} does not open as an image-text-to-text model ({why}); name a "
            "folder that holds the model and its processor, or a hub id."
        ) from None
    return processor, network


def _end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    ids = network.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return frozenset(ids if isinstance(ids, list) else [ids])


def _decoding(temperature: float) -> dict[str, Any]:
    if temperature:
        return {"do_sample": True, "temperature": temperature, "num_beams": 1}
    # None overrides a model's own settings, of which greedy decoding would warn.
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return greedy | {"num_beams": 1}


def _is_text(inputs: Inputs, name: str) -> bool:
    """True for a tensor with an entry per token, such as a mask or type ids."""
    return inputs[name].shape == inputs["input_ids"].shape


def _shape(inputs: Inputs) -> Shape:
    """Key of the clips that share the shapes of a batch."""
    rounded = -(-inputs["input_ids"].shape[1] // ROUND_TO)
    return (rounded, *((n, tuple(t.shape)) for n, t in inputs.items() if not _is_text(inputs, n)))


def _composed(compose: Compose) -> Request | Exception:
    try:
        return compose()
    except Exception as error:  # as in run_isolated: it costs this clip
        return error


def _outcome(first: Answer | Exception, second: Answer | Exception | None) -> Outcome:
    if isinstance(first, Exception):
        return first
    if isinstance(second, Exception):
        return second
    return [first] if second is None else [first, second]
