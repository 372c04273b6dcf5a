"""Speed changes no code: fast convolutions, threads, batches, reading ahead."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.vqgan import codec
from handloom.tokenize.vqgan.search import MARGIN, direct_convolutions
from handloom.tokenize.vqgan.stream import encode_stream, read_ahead
from tests.helpers.vqgan_networks import SIDE, scaled


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A network wide enough for Winograd convolutions."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    model = VQModel(
        block_out_channels=(128, 128), layers_per_block=2, latent_channels=32, vq_embed_dim=8,
        num_vq_embeddings=4096, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    torch.nn.init.normal_(model.quantize.embedding.weight)
    torch.nn.init.normal_(model.quant_conv.weight)
    model.save_pretrained(folder)
    return folder


def both_ways(tokenizer, frame):
    """Latents [D, I, J] through fast and through direct convolutions."""
    x = scaled(frame[None], *tokenizer.input_range).contiguous()
    with torch.inference_mode():
        fast = tokenizer.network.latents(x)[0]
        with direct_convolutions():
            return fast, tokenizer.network.latents(x)[0]


def test_the_error_of_fast_convolutions_is_less_than_what_counts_as_doubt(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    tokenizer.encode(frames_thwc[:1])
    counted = MARGIN * tokenizer.network.search.error
    codes = tokenizer.network.codes()
    for frame in frames_thwc[1:]:
        fast, z = (part.flatten(1).T.double() for part in both_ways(tokenizer, frame))
        first, second = torch.cdist(z, codes.double()).topk(2, largest=False).indices.T
        towards = F.normalize(codes[first] - codes[second], dim=1)
        moved = ((fast - z) * towards).sum(1).abs() / z.norm(dim=1)
        assert 0 < moved.max() < counted  # 0 would mean that both ways were the same


def test_latents_of_direct_convolutions_are_those_of_diffusers_to_the_last_digit(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    model = VQModel.from_pretrained(wide).eval()
    for frame in frames_thwc:
        with torch.inference_mode():
            x = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            expected = model.encode(x.contiguous()).latents
            with direct_convolutions():
                assert torch.equal(tokenizer.network.latents(x.contiguous()), expected)


@pytest.mark.long
def test_codes_are_those_of_diffusers_however_many_frames_are_in_doubt(
    wide, frames_thwc, monkeypatch
):
    model = VQModel.from_pretrained(wide).eval()
    many = np.concatenate([np.roll(frames_thwc, shift, 2) for shift in range(0, 63, 9)])
    with torch.inference_mode():
        x = torch.from_numpy(many).permute(0, 3, 1, 2).float() / 255
        found = [model.quantize(model.encode(x[i : i + 1]).latents)[2][2] for i in range(len(x))]
    expected = torch.stack(found).reshape(len(x), SIDE // 2, SIDE // 2).numpy()
    for margin, doubted in ((MARGIN, None), (1e9, 16)):
        monkeypatch.setattr("handloom.tokenize.vqgan.search.MARGIN", margin)
        tokenizer = vqgan.load(str(wide), resolution=SIDE)
        assert (tokenizer.encode(many) == expected).all()
        if doubted is not None:  # then the direct way alone
            assert tokenizer.network.search.frames == doubted < len(many)


def test_threads_change_no_code_and_no_pixel(wide, frames_thwc):
    one = vqgan.load(str(wide), resolution=SIDE)
    codes_tij = one.encode(frames_thwc)
    back = one.decode(codes_tij)
    try:
        two = vqgan.load(str(wide), resolution=SIDE, threads=2)
        assert (two.encode(frames_thwc) == codes_tij).all()
        assert (two.decode(codes_tij) == back).all()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_bfloat16_is_what_was_asked_for_and_the_search_is_float32(wide, frames_thwc):
    exact = vqgan.load(str(wide), resolution=SIDE)
    rough = vqgan.load(str(wide), resolution=SIDE, dtype="bfloat16")
    with torch.inference_mode(), rough._autocast():
        z = rough.network.latents(scaled(frames_thwc[:1], 0, 1).contiguous())
    assert z.dtype == torch.float32
    same = (exact.encode(frames_thwc) == rough.encode(frames_thwc)).mean()
    assert 0.5 < same < 1  # 1 would mean that nothing was computed in bfloat16


def test_batches_of_an_accelerator_have_one_shape(wide):
    """No accelerator is needed to see how frames are cut into batches and filled up."""
    tokenizer = replace(vqgan.load(str(wide), resolution=SIDE), device="cuda")
    for count in (1, 16, 37):
        frames = np.ones((count, SIDE, SIDE, 3), np.uint8)
        batches = tokenizer._batches(frames)
        assert sum(at.stop - at.start for at in batches) == count
        filled = [tokenizer._padded(frames[at]) for at in batches]
        assert {b.shape for b in filled} == {(codec.GPU_BATCH, SIDE, SIDE, 3)}
        assert sum(int(b[:, 0, 0, 0].sum()) for b in filled) == count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_on_a_gpu_do_not_depend_on_the_batch_and_are_nearly_those_of_a_cpu(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE, device="cuda")
    many = np.concatenate([frames_thwc] * 7)
    together = tokenizer.encode(many)
    alone = np.concatenate([tokenizer.encode(frame[None]) for frame in many])
    assert (together == alone).all()
    assert (tokenizer.encode(many[::-1].copy())[::-1] == together).all()
    reference = vqgan.load(str(wide), resolution=SIDE).encode(many)
    assert (together == reference).mean() >= 0.99


def test_a_stream_gives_the_codes_of_clip_by_clip(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    clips = [frames_thwc[:2], frames_thwc[:0], frames_thwc[2:], frames_thwc]
    streamed = list(encode_stream(tokenizer, iter(clips), ahead=1))
    assert [len(codes) for codes in streamed] == [2, 0, 1, 3]
    for clip, codes_tij in zip(clips, streamed, strict=True):
        assert (codes_tij == tokenizer.encode(clip)).all()
    assert list(encode_stream(tokenizer, [])) == []


def test_reading_ahead_is_bounded_and_carries_errors():
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i
            if i == 50:
                raise UserError("item 51 is damaged")

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(read) <= 5  # one taken, three waiting, one in hand
    assert [next(ahead) for _ in range(50)] == list(range(1, 51))
    with pytest.raises(UserError, match="item 51"):
        next(ahead)
    before = threading.active_count()
    stopping = read_ahead(iter(range(100)), 1)
    next(stopping)
    stopping.close()
    for _ in range(600):
        if threading.active_count() <= before:
            break
        time.sleep(0.1)
    assert threading.active_count() <= before
