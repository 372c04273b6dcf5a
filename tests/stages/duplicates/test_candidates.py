"""Near-duplicate search: which clips are found alike, whatever their order and partition."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from handloom.errors import UserError
from handloom.stages.duplicates import candidates as nd
from handloom.stages.duplicates import compare as comparison
from handloom.stages.duplicates.candidates import ClipFrames, near_duplicates
from handloom.stages.duplicates.fingerprints import BYTES, fingerprint

WIDTH, HEIGHT = 160, 120
SIZE = 48  # of a hand; with its sleeve it covers about a fifth of the picture
Change = Callable[[np.ndarray], np.ndarray]


@cache
def room(seed: int) -> np.ndarray:
    """A place larger than the picture: soft colours and things with edges, [160, 210, 3]."""
    rng = np.random.default_rng(seed)
    residuals = Image.fromarray(rng.integers(40, 215, (6, 6, 3), dtype=np.uint8))
    canvas = np.array(residuals.resize((210, 160), Image.Resampling.BICUBIC))
    for _ in range(14):
        x, y = rng.integers(0, 180), rng.integers(0, 130)
        canvas[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(30, 250, 3)
    return np.asarray(Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(1)))


def film(seed: int, at_s: float, action: int = 0) -> np.ndarray:
    """A camera that sways through the room, and a hand that moves; uint8 [120, 160, 3]."""
    rng = np.random.default_rng((9, seed, action))
    phase, speed = rng.uniform(0, 6.28, 4), rng.uniform(0.5, 1.2, 4)
    wave = np.sin(speed * at_s + phase)
    x, y = int(25 + 20 * wave[0] * (action == 0)), int(20 + 15 * wave[1] * (action == 0))
    frame = room(seed)[y : y + HEIGHT, x : x + WIDTH].copy()
    skin, sleeve = rng.integers(60, 230, 3), rng.integers(10, 250, 3)
    hx, hy = int(56 + 50 * wave[2]), int(40 + 25 * wave[3])
    frame[hy : hy + SIZE, hx : hx + SIZE] = skin
    frame[hy + SIZE :, hx + 6 : hx + SIZE - 6] = sleeve
    return frame


def clip(
    name: str,
    seed: int,
    start_s: float = 0.0,
    change: Change = lambda frame: frame,
    action: int = 0,
) -> ClipFrames:
    """Four seconds of a film, at two frames/s on a clock of its own."""
    times_s = np.arange(8) / 2
    frames = [fingerprint(change(film(seed, start_s + t, action))) for t in times_s]
    return ClipFrames(name, name, times_s + 3.0, np.stack(frames))


def noisy(frame: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(frame.sum()))
    small = Image.fromarray(frame).resize((96, 72), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(small, float) + rng.normal(0, 6, (72, 96, 3)), 0, 255).astype(
        np.uint8
    )


def cropped(frame: np.ndarray) -> np.ndarray:
    return frame[5:113, 12:156]


CHANGES: dict[str, Change] = {
    "resized, noise": noisy,
    "cropped": cropped,
    "mirrored": lambda frame: frame[:, ::-1],
    "mirrored, cropped, noise": lambda frame: noisy(cropped(frame)[:, ::-1]),
    "brighter": lambda frame: np.clip(frame * 1.12 + 4, 0, 255).astype(np.uint8),
}


def duplicate_pairs(clips: list[ClipFrames]) -> set[tuple[str, str]]:
    return {(pair.clip_id, pair.other_id) for pair in near_duplicates(clips)}


@pytest.fixture(scope="module")
def crowd() -> list[ClipFrames]:
    return [clip(f"c{seed:02d}", seed) for seed in range(24)]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("later_s", [0.0, 1.0, 1.2])
def test_copies_are_found_and_nothing_else(
    kind: str, later_s: float, crowd: list[ClipFrames]
) -> None:
    copies = [clip(f"d{seed:02d}", seed, later_s, CHANGES[kind]) for seed in range(0, 24, 6)]
    pairs = duplicate_pairs(crowd + copies)
    wanted = {(f"c{seed:02d}", f"d{seed:02d}") for seed in range(0, 24, 6)}
    assert pairs == wanted


def test_other_actions_before_one_camera_are_seldom_taken_for_copies() -> None:
    clips = [clip(f"{room}-{n}", room, action=1 + n) for room in (50, 51) for n in range(5)]
    # Two rooms of five actions are twenty pairs; the copies of the tests above are all found.
    assert len(duplicate_pairs(clips)) <= 2


def test_copies_sampled_between_samples_are_told_from_other_actions() -> None:
    # In a quarter of a second the hand moves by about its width.
    clips = [clip(f"{n}", 50, action=1 + n) for n in range(5)]
    copies = [clip(f"copy of {n}", 50, 0.25, noisy, action=1 + n) for n in range(5)]
    copied = {(f"{n}", f"copy of {n}") for n in range(5)}
    pairs = duplicate_pairs(clips + copies)
    assert len(pairs & copied) >= 4
    assert len(pairs - copied) <= 1


def test_a_hand_lies_between_the_places_where_the_samples_around_it_show_it() -> None:
    def shown(at_s: float) -> np.ndarray:
        return np.exp(-((np.arange(32) - 12 - 12 * at_s) ** 2) / 50)

    # Frames at 0 and 0.5 s of one clip, and moments between them of the other, on clocks that are
    # a tenth of a second off.
    moments_s = np.array([0.1, 0.2, 0.3, 0.4])
    asked_s = moments_s - 0.1
    ours = np.stack([shown(at_s) for at_s in moments_s])
    residuals = [ours - shown(at_s) for at_s in (0.0, 0.0, 0.5)]
    gaps_s = [at_s - asked_s for at_s in (0.0, 0.0, 0.5)]
    left = comparison.interpolated_residual(residuals, gaps_s, np.zeros(4, np.int64), 1)
    assert left.mean() < 0.25 * np.mean(residuals[0] ** 2)
    elsewhere = [between + 0.5 * np.roll(ours, 14, axis=1) for between in residuals]
    assert (
        comparison.interpolated_residual(elsewhere, gaps_s, np.zeros(4, np.int64), 1).mean()
        > 4 * left.mean()
    )


def test_groups_are_not_compared_within() -> None:
    one, other = clip("a", 1), clip("b", 1, change=noisy)
    same = ClipFrames("b", "a", other.times_s, other.fingerprints)
    assert duplicate_pairs([one, other]) == {("a", "b")}
    assert duplicate_pairs([one, same]) == set()


def test_order_changes_nothing(crowd: list[ClipFrames]) -> None:
    clips = [*crowd, clip("x", 3, 1.2, noisy), clip("y", 7, 0.0, cropped)]
    shuffled = [clips[n] for n in np.random.default_rng(0).permutation(len(clips))]
    assert list(near_duplicates(clips, 0.05)) == list(near_duplicates(shuffled, 0.05))


def test_pairs_have_the_same_similarity_whatever_is_compared_with_them(
    crowd: list[ClipFrames],
) -> None:
    clips = sorted([*crowd, clip("x", 3, 1.2, noisy), clip("y", 7)], key=lambda c: c.clip_id)
    frames = nd.stack_clips(clips)
    candidates = nd.find_candidates(frames)
    parts = [
        comparison.compare_clips(frames, candidates[nd.pairs_of(candidates) % 3 == n])
        for n in range(3)
    ]
    apart = sorted(row for part in parts for row in zip(*part, strict=True))
    assert apart == list(zip(*comparison.compare_clips(frames, candidates), strict=True))


def entries(rng: np.random.Generator, count: int, keys: int) -> nd.Entries:
    """Entries whose signatures are near one of a few."""
    made = np.zeros(count, nd.ENTRY)
    made["key"], made["frame"] = rng.integers(0, keys, count), np.arange(count)
    scenes = np.random.default_rng(5).integers(0, 1 << 63, 4, np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(63, 6, False)) for _ in range(count)]
    made["signature"] = scenes[rng.integers(0, 4, count)] ^ np.array(flips, np.uint64)
    made["strong"] = nd.EVERY_BIT
    return made


# Few entries under a key, many, and more than a view is compared with.
@pytest.mark.parametrize(("count", "keys"), [(300, 100), (300, 3), (1500, 2)])
def test_matches_are_those_of_each_view_with_all_that_share_its_key(count: int, keys: int) -> None:
    rng = np.random.default_rng(count + keys)
    index, views = nd.sort_entries(entries(rng, count, keys)), entries(rng, 400, keys)
    expected = set[tuple[int, int]]()
    for number, view in enumerate(views):
        bucket = np.flatnonzero(index["key"] == view["key"])
        if len(bucket) > nd.MAX_BUCKET:
            place = int(np.searchsorted(index["signature"][bucket], view["signature"]))
            start = min(max(0, place - nd.MAX_BUCKET // 2), len(bucket) - nd.MAX_BUCKET)
            bucket = bucket[start : start + nd.MAX_BUCKET]
        apart = [int(s) ^ int(view["signature"]) for s in index["signature"][bucket]]
        near = sorted(
            (mask.bit_count(), int(index["frame"][row]), row)
            for mask, row in zip(apart, bucket.tolist(), strict=True)
            if mask.bit_count() <= nd.MAX_BITS and 1 - 2 * mask.bit_count() / 63 >= nd.MIN_LIKENESS
        )
        expected |= {(row, number) for _, _, row in near[: nd.MATCHES_KEPT]}
    rows = [zip(*pair, strict=True) for pair in nd.match_entries(index, views)]
    found = [(int(whole), int(part)) for some in rows for whole, part in some]
    assert len(expected) > 100
    assert len(set(found)) == len(found)
    assert set(found) == expected


def test_likeness_is_the_cosine_of_signs_and_two_strengths() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-1.7, -0.4, 0.4, 1.7], (2, 50, 63))
    packed = [[sum(1 << n for n, on in enumerate(row) if on) for row in half]
              for half in (*(values > 0), *(abs(values) > 1))]  # fmt: skip
    one, two = np.zeros(50, nd.ENTRY), np.zeros(50, nd.ENTRY)
    for made, signature, strong in ((one, 0, 2), (two, 1, 3)):
        made["signature"], made["strong"] = packed[signature], packed[strong]
    products = (values[0] * values[1]).sum(axis=1)
    expected = products / np.linalg.norm(values[0], axis=1) / np.linalg.norm(values[1], axis=1)
    assert nd.likeness(one, two) == pytest.approx(expected)


def test_flat_and_dark_clips_are_no_copies_of_each_other() -> None:
    rng = np.random.default_rng(0)
    flat = [
        np.clip(rng.normal(level, 3, (8, 60, 80, 3)), 0, 255) for level in (2, 2, 128, 128, 250)
    ]
    clips = [
        ClipFrames(
            f"f{n}",
            f"f{n}",
            np.arange(8) / 2,
            np.stack([fingerprint(f.astype(np.uint8)) for f in frames]),
        )
        for n, frames in enumerate(flat)
    ]
    assert duplicate_pairs(clips) == set()


def test_a_title_that_thousands_share_costs_no_square() -> None:
    title = fingerprint(film(77, 0.0))
    count = 3 * nd.MAX_BUCKET
    clips = [ClipFrames(f"{n:04d}", f"{n:04d}", np.zeros(1), title[None]) for n in range(count)]
    frames = nd.stack_clips(clips)
    candidates = nd.find_candidates(frames)
    assert 0 < len(candidates) <= count * nd.MAX_BUCKET


def test_a_clip_is_compared_with_its_nearest_and_those_it_is_nearest_to() -> None:
    count = nd.NEAREST + 20
    star = np.zeros(count, nd.CANDIDATE)
    star["other"] = np.arange(1, count + 1)
    star["bits"] = np.arange(count) % nd.MAX_BITS
    # Clip 0 has too many neighbours, but each of them has it alone.
    assert len(nd.keep_nearest(star)) == count
    crowd = np.zeros(count * (count - 1) // 2, nd.CANDIDATE)
    crowd["clip"], crowd["other"] = np.triu_indices(count, 1)
    crowd["bits"] = (crowd["clip"] + crowd["other"]) % nd.MAX_BITS
    assert len(nd.keep_nearest(crowd)) < len(crowd)


def test_an_empty_list_has_no_pairs() -> None:
    assert duplicate_pairs([]) == set()
    assert duplicate_pairs([clip("a", 1)]) == set()


def test_fingerprints_of_another_form_are_named() -> None:
    wrong = ClipFrames("abc", "g", np.zeros(2), np.zeros((2, BYTES + 1), np.uint8))
    with pytest.raises(UserError, match=r"abc.*expected one of 1152 bytes"):
        list(near_duplicates([wrong]))
