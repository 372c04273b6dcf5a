"""Laws of validation: by dataset, frame by frame, against baselines, and against true frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure.pixels import psnr_db
from handloom.train.generate import quality
from handloom.train.generate.quality import PredictedView
from handloom.train.pretrain import results, true_frames, validate
from handloom.train.pretrain.baselines import Unigram
from handloom.train.pretrain.task import PretrainTask
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.recorded_runs import clip_row, write_run
from tests.helpers.stage1_runs import small_run, write_clips
from tests.helpers.videos import write_grey_video

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> PretrainTask:
    """A finished run on two datasets."""
    root = tmp_path_factory.mktemp("mixed")
    folders = [write_clips(root / "still", dataset="still", seed=1)]
    folders.append(write_clips(root / "other", (8, 3), dataset="other", seed=2))
    shards = tuple(str(folder) for folder in folders)
    config = small_run(folders[0], root / "out", steps=40, val_every=40, batch_size=4)
    config = type(config)(**{**config.__dict__, "shards": shards})
    train(config)
    task: PretrainTask = Run(config).task
    return task


@pytest.mark.long
def test_all_is_the_mean_over_the_clips_of_the_datasets(job: PretrainTask) -> None:
    found = validate.evaluate(job)
    assert {name: v.clips for name, v in found.items()} == {"all": 9, "other": 3, "still": 6}
    for pick in (lambda v: v.loss, lambda v: v.later.accuracy, lambda v: v.first.cross_entropy):
        expected = (3 * pick(found["other"]) + 6 * pick(found["still"])) / 9
        assert pick(found["all"]) == pytest.approx(expected, rel=1e-5)
    n = job.shape.codes_per_frame
    for v in found.values():
        loss = n * v.first.cross_entropy + (job.shape.codes - n) * v.later.cross_entropy
        assert v.loss == pytest.approx(loss / job.shape.codes, rel=1e-5)


def test_frame_by_frame_stands_beside_the_same_numbers_as_the_table(job: PretrainTask) -> None:
    scores, frames = validate.evaluate(job), results.frame_by_frame(job, clips=9)
    rows = results.baseline_scores(job, [job.val[i] for i in range(9)])
    for name, found in frames.items():
        later = rows[name]["frames 1 and later"]
        assert found.clips == scores[name].clips
        assert found.teacher_forced == pytest.approx(scores[name].later.accuracy, abs=1e-6)
        assert found.copy_last_frame == pytest.approx(later["copy last frame"].accuracy, abs=1e-6)
        assert found.unigram == later["unigram"].accuracy
        assert 0 < found.temporally_teacher_forced < 1


def test_the_baselines_of_a_dataset_are_fitted_on_that_dataset(job: PretrainTask) -> None:
    held = [job.val[i] for i in range(9)]
    rows = results.baseline_scores(job, held)
    for name in ("other", "still"):
        train, val = (
            np.stack([s["tokens"] for s in samples if s["dataset"] == name])
            for samples in (map(job.train.__getitem__, range(len(job.train))), held)
        )
        expected = Unigram.fit(train, 64).score(val[:, :, 1:])
        assert rows[name]["frames 1 and later"]["unigram"] == expected


def test_the_log_and_the_summary_have_each_dataset(job: PretrainTask) -> None:
    lines = (job.config.out / "metrics.jsonl").read_text().splitlines()
    logged = next(row["val"] for row in map(json.loads, lines) if "val" in row)
    summary = json.loads((job.config.out / "summary.json").read_text())
    assert set(logged) == set(summary["val_by_dataset"]) == {"all", "other", "still"}
    later = summary["val_by_dataset"]["still"]["frames 1 and later"]
    assert later["model"]["cross_entropy"] == logged["still"]["later"]["cross_entropy"]
    assert set(later) == {"model", "copy last frame", "unigram"}
    assert summary["val"] == summary["val_by_dataset"]["all"]


def flat(level: int) -> np.ndarray:
    return np.full((2, 16, 16, 3), level, np.uint8)


def test_scores_of_pictures_by_hand() -> None:
    beside = PredictedView(
        "a", predicted=flat(103), repeated=flat(110), decoded=flat(100), source=None
    )
    known = PredictedView(
        "b", predicted=flat(103), repeated=flat(110), decoded=flat(101), source=flat(100)
    )
    found = quality.scores([beside, known])
    assert found["a"]["truth"] == "decoded codes"
    assert found["b"]["truth"] == "source media"
    assert found["all"]["truth"] == "decoded codes"  # as long as one source is missing
    assert "tokenizer's ceiling" not in found["a"]
    assert found["b"]["tokenizer's ceiling"]["psnr_db"] == pytest.approx(48.1308)  # 20 log10 255
    for name in "ab":
        expected = psnr_db(flat(100)[0], flat(103)[0])
        assert found[name]["predicted"]["psnr_db"] == pytest.approx(expected, abs=1e-3)
        assert found[name]["last given repeated"]["psnr_db"] == pytest.approx(
            28.1308
        )  # -20 log10 10
    assert found["all"]["frames"] == 4


def test_the_distance_of_sets_needs_two_videos() -> None:
    def network(video: np.ndarray) -> np.ndarray:
        return np.array([video.mean(), 0.0])

    one = PredictedView(
        "a", predicted=flat(103), repeated=flat(100), decoded=flat(100), source=None
    )
    two = PredictedView(
        "a", predicted=flat(123), repeated=flat(120), decoded=flat(120), source=None
    )
    found = quality.scores([one, two], network=network)["a"]
    assert found["predicted"]["fvd"] == pytest.approx(9)  # all three levels higher, alike spread
    assert found["last given repeated"]["fvd"] == 0
    assert "fvd" not in quality.scores([one], network=network)["a"]["predicted"]


@pytest.fixture
def run(tmp_path: Path, tiny_vqgan: Path) -> tuple[Path, vqgan.VQGAN, list[dict[str, Any]]]:
    """A run with a video that gets brighter; clips of it, of other codes, and of no file."""
    tokenizer = vqgan.load(str(tiny_vqgan), resolution=32)
    write_grey_video(tmp_path / "data/v.mp4", list(range(0, 240, 8)), fps=10)
    names = ["whole", "other codes", "no file"]
    places = ["v.mp4", "v.mp4", "gone.mp4"]
    clips = [
        clip_row(name, 0.0, 3.0, media_path=place)
        for name, place in zip(names, places, strict=True)
    ]
    write_run(tmp_path, tmp_path / "data", {"ingest": clips})
    import av

    with av.open(str(tmp_path / "data/v.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    # 0.55 s is the middle of frame 5, 2.99 s the end of the last one
    seen = np.stack([center_square(frames[i], 32) for i in (0, 5, 29)])
    codes = tokenizer.encode(seen)[None]
    samples = [
        {"clip_id": name, "tokens": codes, "frame_times_s": [0.0, 0.55, 2.99]} for name in names
    ]
    samples[1]["tokens"] = (codes + 1) % 256
    return tmp_path / "shards", tokenizer, [*samples, {"clip_id": "unknown", "tokens": codes}]


def test_true_frames_are_those_that_the_codes_were_made_of(
    run: tuple[Path, vqgan.VQGAN, list[dict[str, Any]]],
) -> None:
    shards, tokenizer, samples = run
    found = true_frames.read([str(shards)], samples, tokenizer)
    assert set(found) == {"whole"}
    np.testing.assert_array_equal(tokenizer.encode(found["whole"]), samples[0]["tokens"][0])
    assert true_frames.read([str(shards / "elsewhere")], samples, tokenizer) == {}
