import json
from pathlib import Path

import av
import numpy as np
import pytest

from handloom.stages.miniatures import reaches
from handloom.stages.miniatures.people import reach
from handloom.stages.miniatures.ssv2 import FPS, NAME, VIDEOS

CLIPS = 33  # eleven scenes: the tenth is for validation


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reaches")
    reaches.write(out, clips=CLIPS)
    return out


def rows(out: Path, split: str) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads((out / f"{NAME}-{split}.json").read_text())
    return listed


def frames(file: Path) -> np.ndarray:
    with av.open(str(file)) as video:
        return np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)]).astype(int)


def test_all_videos_of_a_scene_are_of_one_split(written: Path) -> None:
    train, val = ({int(str(r["id"])) for r in rows(written, s)} for s in ("train", "validation"))
    assert val == {28, 29, 30}
    assert train | val == set(range(1, CLIPS + 1))
    assert {int(f.stem) for f in (written / VIDEOS).iterdir()} == train | val


def test_only_the_caption_tells_the_videos_of_a_scene_apart_at_first(written: Path) -> None:
    labels = [str(row["label"]) for row in rows(written, "train")[:3]]
    assert [label.split()[-2] for label in labels] == list(reach.BLOCKS)
    videos = [frames(written / VIDEOS / f"{number}.webm") for number in (1, 2, 3)]
    assert len({len(video) for video in videos}) == 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        first, last = (np.abs(videos[one][at] - videos[other][at]).mean() for at in (0, -1))
        assert first < 1.0 < last


def test_the_hand_ends_on_the_block_of_its_colour() -> None:
    for seed in range(20):
        shown = [reach.random_reach(np.random.default_rng(seed), target) for target in range(3)]
        assert len({scene.places for scene in shown}) == 1
        for target, scene in enumerate(shown):
            end = np.array(reach._grasp(scene, scene.seconds))
            tops = np.array(scene.places) - (0, 1.3 * reach.EDGE)  # places are on the table
            apart = np.linalg.norm(end - tops, axis=1)
            assert apart.argmin() == target
            assert len(list(reach.render(scene, 2))) == round(2 * scene.seconds)


def test_the_same_seed_draws_the_same_frames() -> None:
    first, again = (list(reach.render(reach.random_reach(np.random.default_rng(3), 1), FPS // 4))
                    for _ in range(2))  # fmt: skip
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
