"""Captions by a local model: its pictures decide, its neighbours do not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from handloom.errors import UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.local import Local
from handloom.stages.caption.requests import Answer, Compose, Outcome, Request
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import Caption
from tests.helpers.numbered_clips import clip, write_videos
from tests.helpers.tiny_vlm import COLOURS, SAID, plain, write_vlm
from tests.helpers.whole_clip import whole

PROMPTS = ("write", "write what these hands do", "these pictures were taken from a short clip")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("vlm")
    write_vlm(folder)
    return folder


def asked(colour: str, prompt: str = PROMPTS[0], clip_id: str = "") -> Request:
    frames = tuple(plain(colour) for _ in range(4))
    name = clip_id or f"{colour}/{prompt}"
    return Request(name, "00", "tiny", prompt, frames, max_tokens=12, temperature=0.0, seed=0)


def fixed(request: Request) -> Compose:
    return lambda: request


def first_texts(outcomes: list[Outcome]) -> list[str]:
    return [o[0].text if isinstance(o, list) else f"failed: {o}" for o in outcomes]


def test_an_answer_depends_on_its_pictures(vlm: Path) -> None:
    local = Local(str(vlm), Journal(None), clips_at_once=1)
    requests = [asked(colour, prompt) for prompt in PROMPTS for colour in COLOURS]
    outcomes = local.ask_all([fixed(request) for request in requests], lambda *_: True)
    assert first_texts(outcomes) == [SAID.format(colour) for _ in PROMPTS for colour in COLOURS]
    assert all(o[0].is_whole and o[0].completion_tokens == 6 for o in outcomes)  # type: ignore[index]


def test_a_batch_changes_no_number_of_a_clip(vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches as a GPU gets them, a clip's scores are the same bits whoever is beside it."""
    local = Local(str(vlm), Journal(None), clips_at_once=1)
    local._batch = 4
    seen: dict[str, list[torch.Tensor]] = {}
    requests = [asked(colour, prompt) for prompt in PROMPTS for colour in COLOURS]
    for group in (requests, requests[::-1], requests[1:2], requests[3:6]):
        inputs = {request.clip_id: local._inputs(request) for request in group}
        for start in range(0, len(group), 4):
            part = [request.clip_id for request in group[start : start + 4]]
            rows = [inputs[name] for name in part]
            batch = local._collate(rows + [rows[-1]] * (4 - len(rows)))
            with torch.inference_mode():
                scores = local._model(**batch).logits[:, -1]
            for name, row in zip(part, scores, strict=False):
                seen.setdefault(name, []).append(row)
    assert all(torch.equal(row, rows[0]) for rows in seen.values() for row in rows)


def test_batches_and_single_clips_agree(vlm: Path) -> None:
    requests = [asked(colour, prompt) for prompt in PROMPTS for colour in COLOURS]
    single = Local(str(vlm), Journal(None), clips_at_once=1)
    batched = Local(str(vlm), Journal(None), clips_at_once=1)
    batched._batch = 4
    composers = [fixed(request) for request in requests]
    expected = first_texts(single.ask_all(composers, lambda *_: True))
    assert first_texts(batched.ask_all(composers, lambda *_: True)) == expected


def test_a_second_try_is_drawn_the_same_way_each_time(vlm: Path) -> None:
    requests = [asked("red", clip_id=str(i)) for i in range(3)]
    tries = []
    for order in (requests, requests[::-1]):
        local = Local(str(vlm), Journal(None), clips_at_once=1)
        outcomes = local.ask_all([fixed(request) for request in order], lambda *_: False)
        tries.append({r.clip_id: o for r, o in zip(order, outcomes, strict=True)})
    for name, outcome in tries[0].items():
        again = tries[1][name]
        assert isinstance(outcome, list)
        assert isinstance(again, list)
        assert len(outcome) == 2
        assert [answer.text for answer in outcome] == [answer.text for answer in again]


def test_known_answers_are_not_computed_again(vlm: Path, tmp_path: Path) -> None:
    request = asked("red")
    kept = Answer("wave the flag", True, 1, 3, 0.1)
    Journal(tmp_path).put("00", request.key, kept)
    local = Local(str(vlm), Journal(tmp_path), clips_at_once=1)
    assert local.ask_all([fixed(request)], lambda *_: True) == [[kept]]


def test_a_clip_that_cannot_be_read_costs_itself(vlm: Path) -> None:
    def broken() -> Request:
        raise OSError("no such file")

    local = Local(str(vlm), Journal(None), clips_at_once=1)
    outcomes = local.ask_all([fixed(asked("red")), broken, fixed(asked("blue"))], lambda *_: True)
    assert first_texts(outcomes) == [
        SAID.format("red"), "failed: no such file", SAID.format("blue")
    ]  # fmt: skip


def test_the_stage_captions_videos(vlm: Path, tmp_path: Path) -> None:
    write_videos(tmp_path, 4)
    stage = Caption(route="vlm", model=str(vlm), frames=4, hint=False).at(tmp_path, tmp_path / "c")
    stage.setup()
    told = "#C C picks up the cup"
    rows = stage.batch([whole(clip(number, told)) for number in range(4)])
    for row in rows:
        assert isinstance(row, CaptionRow)
        assert (row.status, row.source) == ("ok", "vlm")
        assert row.caption in {SAID.format(colour) for colour in COLOURS}
        assert row.prompt_tokens > 4
        assert row.completion_tokens >= 6
    assert [next(iter(stage(*whole(clip(n, told))))) for n in range(4)] == rows  # from the journal


def test_a_folder_counts_by_what_lies_in_it(vlm: Path, tmp_path: Path) -> None:
    from shutil import copytree

    from handloom.stages.caption.stage import _identity

    moved = copytree(vlm, tmp_path / "moved")
    ours = Caption(route="vlm", model=str(vlm)).settings()
    assert Caption(route="vlm", model=str(moved)).settings() == ours
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    _identity.cache_clear()
    assert Caption(route="vlm", model=str(moved)).settings() != ours


def test_agreement_is_the_cosine_of_clip(tmp_path: Path) -> None:
    from tests.helpers.tiny_clip import write_clip

    write_clip(tmp_path)
    from transformers import CLIPModel, CLIPProcessor

    from handloom.stages.caption.agreement import agreement

    frames = [plain("red"), plain("blue")]
    found = agreement(str(tmp_path), "pick up the red cup", frames)
    model, processor = CLIPModel.from_pretrained(tmp_path), CLIPProcessor.from_pretrained(tmp_path)
    inputs = processor(text=["pick up the red cup"], images=frames, return_tensors="pt")
    with torch.inference_mode():
        scores = model(**inputs).logits_per_text[0] / model.logit_scale.exp()
    np.testing.assert_allclose(found, scores.mean().item(), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"route": "vlm"}, "needs a model"),
        ({"route": "server", "model": "m"}, "expected the address"),
        ({"model": "m"}, "add --caption.route vlm"),
        ({"route": "auto", "model": "m", "frames": 0}, "--caption.frames is 0"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Caption(**options).settings()  # type: ignore[arg-type]


def test_a_folder_without_a_model_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not open as an image-text-to-text model"):
        Caption(route="vlm", model=str(tmp_path)).at(tmp_path).setup()
