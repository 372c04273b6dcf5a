"""Caption: a sentence on what the hands do, from the dataset's own text or from a model.

Four routes write the same rows. `source` cleans the text up; `vlm` asks a model on the workers;
`server` asks an endpoint; `none` leaves captions empty. If a model's answer is flagged there is a
second request with another seed; if that answer is flagged too, the clip falls back to its own
text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from handloom.errors import MediaError, UserError
from handloom.files import file_digest
from handloom.stages.caption.checks import Candidate, caption_flags, tidy
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.prompt import Prompt, read_prompt
from handloom.stages.caption.requests import Answer, Asker, FrameHWC, Request
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.source_text import clean, clean_text
from handloom.stages.hands.rows import Framing
from handloom.stages.media.clip_frames import pictures_of, uniform_times
from handloom.stages.media.frame_transform import clip_shown, transform_facts
from handloom.stages.stage import Stage, sentence
from handloom.stages.tables.rows import DescribedFootage, Footage, Row

# Half of the time speech is not about what the hands do, so it is no fallback for a model.
NO_CAPTION = frozenset({"asr"})
WEAK_TEXTS = {"asr": "what is said", "label": "the class label"}

# While the last answers of a batch are awaited the next batches are decoded and sent.
SERVER_CONCURRENCY = 4

# Options that a model's answer depends on, beside the model and the prompt. Where it runs, the
# number of requests under way and the time limits change nothing.
ASKED = ("hint", "frames", "resolution", "max_tokens", "temperature", "seed", "max_words")
MODEL_FILES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".txt", ".model"})


@dataclass(frozen=True)
class Caption(Stage):
    """Options of `caption`."""

    name: ClassVar[str] = "caption"
    row_type: ClassVar[type[Row]] = CaptionRow
    code_version: ClassVar[int] = 4
    clip_type: ClassVar[type[Footage]] = DescribedFootage
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Framing}

    route: Literal["auto", "source", "vlm", "server", "none"] = "source"
    """source: the dataset's own text; vlm: a model on the workers; server: an endpoint; none: empty
    captions, also of clips without a text. auto: the model if one is given (with a url the server),
    else source."""
    model: str = ""
    """vlm: a folder or hub id; server: the name of a model that it serves."""
    url: str = ""
    """API address of an OpenAI-compatible server, such as http://localhost:8000/v1."""
    prompt: str = "imperative"
    """imperative, third_person, or a text file; see docs/captions.md."""
    hint: bool = True
    """Quote the dataset's own text in the prompt."""
    frames: int = 6
    """Pictures per clip, at uniform times; 4 to 8 show an action."""
    resolution: int = 448
    """Longer side of the pictures, pixels; larger ones are shrunk."""
    max_tokens: int = 80
    """Tokens of an answer at most; a longer one is cut off and flagged."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; the second try takes at least 0.7."""
    seed: int = 0
    """Seed of a model's sampling, where the temperature is above 0."""
    max_words: int = 30
    """Captions with more words are flagged."""
    media: Literal["images", "video"] = "images"
    """vlm: hand the frames over as pictures, or as one video."""
    clips_at_once: int = 8
    """vlm: clips in a batch on a GPU."""
    in_flight: int = 32
    """server: clips that one worker requests captions of at a time."""
    timeout_s: float = 60.0
    """server: time limit of one try, seconds."""
    give_up_s: float = 110.0
    """server: time limit of a clip with all its tries, seconds; below --run.clip-timeout-s."""
    agreement_model: str = ""
    """A CLIP model, folder or hub id, that scores how captions fit their pictures."""
    prices: Path | None = None
    """YAML file with the model's prices, for `plan` and the closing lines."""

    def __post_init__(self) -> None:
        is_light = not self.asks and not self.agreement_model
        concurrency = SERVER_CONCURRENCY if self.chosen == "server" else 1
        facts = {"light": is_light, "concurrency": concurrency, "wants_gpu": self.chosen == "vlm"}
        for name, value in facts.items():
            object.__setattr__(self, name, value)  # frozen for everyone else

    @property
    def chosen(self) -> str:
        """The route that `route` and the model come down to: source, vlm, server or none."""
        if self.route != "auto":
            return self.route
        return "server" if self.url else "vlm" if self.model else "source"

    @property
    def asks(self) -> bool:
        """Whether a model is asked."""
        return self.chosen in ("vlm", "server")

    def check(self) -> None:
        """Raise UserError where the options do not go together."""
        if not self.asks and (self.model or self.url):
            raise UserError(
                f"a caption model is given, but --caption.route is {self.chosen}, which asks none; "
                "add --caption.route vlm or --caption.route server."
            )
        if self.asks and not self.model:
            raise UserError(
                f"--caption.route {self.chosen} needs a model; name it with --caption.model."
            )
        is_path = self.model.startswith(("/", ".", "~"))
        if self.chosen == "vlm" and is_path and not Path(self.model).is_dir():
            raise UserError(
                f"--caption.model {self.model} is not there; name a model's folder or hub id."
            )
        if self.chosen == "server" and not self.url.startswith(("http://", "https://")):
            raise UserError(
                f"--caption.url is {self.url!r}, expected the address of an OpenAI-compatible API, "
                "such as http://localhost:8000/v1."
            )
        for name in ("frames", "resolution", "in_flight", "clips_at_once", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--caption.{name.replace('_', '-')} is {getattr(self, name)}, expected at "
                    "least 1."
                )

    def advice(self, text_kind: str) -> str:
        """A sentence to print for texts of a kind that describe little; else empty."""
        if self.chosen != "source" or text_kind not in WEAK_TEXTS:
            return ""
        return (
            f"caption: {WEAK_TEXTS[text_kind]} is all that these clips are described by, since no "
            "model is given; --caption.model FOLDER lets a vision-language model describe them, "
            "with --caption.url URL one that is served (docs/captions.md)"
        )

    def settings(self) -> dict[str, Any]:
        """The route, and the options that its answers depend on."""
        self.check()
        asked = ASKED if self.asks else ()
        media = ("media",) if self.chosen == "vlm" else ()
        kept = ("code_version", "columns", "models", *asked, *media)
        every = super().settings()
        settings = {name: every[name] for name in kept} | {"route": self.chosen}
        decodes = self.asks or self.agreement_model
        return settings | (transform_facts(self) if decodes else {})

    def models(self) -> dict[str, str]:
        """The model by its weights, or by its name; and the prompt."""
        models: dict[str, str] = {}
        if self.asks:
            models |= {"model": _identity(self.model), "prompt": self.instructions.digest}
        if self.agreement_model:
            models["agreement"] = _identity(self.agreement_model)
        return models

    def input_type(self) -> type[Footage]:
        """A clip's pictures and text; all of it where frames pass a function of the user's."""
        return clip_shown(self)

    def setup(self) -> None:
        """Load the model on this worker, or check that the server answers."""
        if self.chosen == "server":
            _server(self, self._answers).check(self.model)
        elif self.chosen == "vlm":
            self.check_device()
            self._asker()
        if self.agreement_model:
            from handloom.stages.caption import agreement

            agreement.load(self.agreement_model)

    def __call__(self, clip: DescribedFootage, framing: Framing) -> Iterator[Row]:
        """Caption one clip."""
        if self.light:
            yield self._own_row(clip)
        else:
            yield from self.batch([(clip, framing)])

    def batch(self, inputs: Sequence[tuple[Any, ...]]) -> list[Row]:
        """Caption several clips; a model gets the requests of all of them at a time."""
        if self.light:
            return super().batch(inputs)
        clips = [clip for clip, _ in inputs]
        rows = self._asked(inputs) if self.asks else map(self._own_row, clips)
        return [
            self._scored(clip, framing, row)
            for (clip, framing), row in zip(inputs, rows, strict=True)
        ]

    def _own_row(self, clip: DescribedFootage) -> CaptionRow:
        """The row of a clip of which no model is asked."""
        if self.chosen == "none":
            return CaptionRow(clip_id=clip.clip_id, source="none")
        return source_row(clip)

    def flush(self) -> None:
        """Write down the model's answers."""
        self._answers.flush()

    @property
    def instructions(self) -> Prompt:
        """The content of `prompt`."""
        return read_prompt(self.prompt)

    @property
    def _answers(self) -> Journal:
        return _journal(self.cache / "answers" if self.cache else None)

    def _asker(self) -> Asker:
        if self.chosen == "server":
            server: Asker = _server(self, self._answers)
            return server
        return _local(self.model, self._answers, self.clips_at_once, self.media, self.device)

    def _asked(self, inputs: Sequence[tuple[DescribedFootage, Framing]]) -> Iterator[CaptionRow]:
        """Rows from a model's answers, one for each input in order."""
        clips = {clip.clip_id: clip for clip, _ in inputs}
        for bucket in {clip.bucket for clip in clips.values()}:
            self._answers.refresh(bucket)
        composers = [partial(self._request, *one) for one in inputs]
        outcomes = self._asker().ask_all(
            composers, lambda request, answer: not self._flags(clips[request.clip_id], answer)
        )
        for (clip, _), outcome in zip(inputs, outcomes, strict=True):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                row = self._row(clip, outcome)
            except Exception as error:  # as in run_isolated: it costs this clip
                row = CaptionRow(clip_id=clip.clip_id, status="failed", error=sentence(error))
            yield row

    def _request(self, clip: DescribedFootage, framing: Framing) -> Request:
        """The request for a clip's caption; decodes the clip's frames."""
        hint = clean(clip.text, clip.text_kind).text if self.hint else ""
        return Request(
            clip_id=clip.clip_id,
            bucket=clip.bucket,
            model=self._model_name(),
            prompt=self.instructions.about(hint, clip.text_kind),
            frames_hwc=self._frames(clip, framing),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )

    def _model_name(self) -> str:
        return self.model if self.chosen == "server" else _identity(self.model)

    def _frames(self, clip: DescribedFootage, framing: Framing) -> tuple[FrameHWC, ...]:
        """The frames that a model gets, RGB uint8 [H, W, 3] each."""
        frames = pictures_of(self).frames(clip, framing, uniform_times(framing, self.frames))
        return tuple(_shrunk(frame_hwc, self.resolution) for frame_hwc in frames)

    def _flags(self, clip: DescribedFootage, answer: Answer) -> tuple[str, ...]:
        return caption_flags(
            Candidate(
                text=tidy(answer.text),
                is_whole=answer.is_whole,
                prompt=self.instructions.text,
                source=clean(clip.text, clip.text_kind).text,
                kind=clip.text_kind,
                max_words=self.max_words,
            )
        )

    def _row(self, clip: DescribedFootage, answers: list[Answer]) -> CaptionRow:
        """The row of a clip, from the last answer if that can be used, else from its own text."""
        flags = [self._flags(clip, answer) for answer in answers]
        if flags[-1]:
            row = _fallen_back(clip, flags[-1])
        else:
            caption = tidy(answers[-1].text)
            flagged = list(
                clean(caption, "instruction").flags
            )  # as an instruction it stays as it is
            row = CaptionRow(
                clip_id=clip.clip_id, caption=caption, source=self.chosen, flags=flagged
            )
        return replace(
            row,
            model=self._model_name(),
            answers=[answer.text for answer in answers],
            answer_flags=[" ".join(each) for each in flags],
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            seconds=sum(answer.seconds for answer in answers),
        )

    def _scored(self, clip: DescribedFootage, framing: Framing, row: CaptionRow) -> CaptionRow:
        if not (self.agreement_model and row.caption):
            return row
        from handloom.stages.caption.agreement import agreement

        try:
            score = agreement(self.agreement_model, row.caption, self._frames(clip, framing))
        except MediaError:  # the caption of the source route stands without pictures
            return row
        return replace(row, agreement=score)


@dataclass(frozen=True)
class EpisodeCaption(Stage):
    """Options of `caption` for robot episodes, whose instructions are their captions."""

    name: ClassVar[str] = "caption"
    row_type: ClassVar[type[Row]] = CaptionRow
    code_version: ClassVar[int] = 2
    clip_type: ClassVar[type[Footage]] = DescribedFootage
    light: ClassVar[bool] = True

    def __call__(self, clip: DescribedFootage) -> Iterator[CaptionRow]:
        """Copy the episode's instruction."""
        yield source_row(clip)


def instruction(text: str, kind: str = "narration") -> str:
    """A dataset's text as an instruction, as the route `source` makes it; empty without words."""
    return clean_text(text, kind)


def source_row(clip: DescribedFootage) -> CaptionRow:
    """A clip's own text as its caption; rejected where there are no words in it."""
    cleaned = clean(clip.text, clip.text_kind)
    return CaptionRow(
        clip_id=clip.clip_id,
        status="ok" if cleaned.text else "rejected",
        reason="" if cleaned.text else "no_text",
        caption=cleaned.text,
        source="source",
        flags=[*clip.text_flags, *cleaned.flags],
    )


def _fallen_back(clip: DescribedFootage, flags: tuple[str, ...]) -> CaptionRow:
    """The row of a clip whose answers cannot be used."""
    row = source_row(clip)
    if clip.text_kind in NO_CAPTION or not row.caption:
        row = replace(row, status="rejected", reason="no_caption", caption="")
    return replace(row, flags=[*row.flags, *flags])


def _shrunk(frame_hwc: FrameHWC, longer_side: int) -> FrameHWC:
    """The frame, shrunk so that its longer side is at most so many pixels."""
    height, width = frame_hwc.shape[:2]
    scale = longer_side / max(height, width)
    if scale >= 1:
        return frame_hwc
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame_hwc).resize(size, Image.Resampling.BICUBIC))


@cache
def _identity(model: str) -> str:
    """A hash of the files in a model's folder; the name of a model that is no folder."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES)
    return " ".join(f"{path.name}:{file_digest(path)[:16]}" for path in files)


@cache
def _journal(folder: Path | None) -> Journal:
    return Journal(folder)


@cache
def _server(stage: Caption, journal: Journal) -> Any:
    from handloom.stages.caption.server import Server  # aiohttp: only where it is needed

    return Server(stage.url, journal, stage.in_flight, stage.timeout_s, stage.give_up_s)


@cache
def _local(
    model: str, journal: Journal, clips_at_once: int, media: Literal["images", "video"], device: str
) -> Asker:
    from handloom.stages.caption.local import Local

    return Local(model, journal, clips_at_once, media, device)
