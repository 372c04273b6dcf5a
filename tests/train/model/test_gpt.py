import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from handloom.errors import UserError
from handloom.train.model import text
from handloom.train.model.gpt import GPT, rotate, to_sequence
from handloom.train.model.sampling import continue_frames
from handloom.train.model.shape import SIZES, Shape
from handloom.train.pretrain.baselines import CopyLastFrame, Unigram
from tests.helpers.tiny_clip_text import write_clip_text

SMALL = Shape(
    layers=2,
    width=64,
    heads=2,
    codebook_size=97,
    views=2,
    frames=3,
    rows=4,
    cols=3,
    text_length=6,
    text_width=16,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(SMALL).eval()


@pytest.fixture
def clip():
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, SMALL.codebook_size, (2, SMALL.codes), generator=generator)
    return codes, torch.randn(2, SMALL.text_length, SMALL.text_width, generator=generator)


def wake(model):
    """Untrained MLPs and attention start simple; random weights make every path count."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_code_never_changes_the_prediction_of_itself_or_of_an_earlier_code(model, clip):
    codes, captions = clip
    before = wake(model)(codes, captions)
    for i in (0, 11, 12, 40, SMALL.codes - 1):
        changed = codes.clone()
        changed[:, i] = (changed[:, i] + 1) % SMALL.codebook_size
        after = model(changed, captions)
        assert torch.equal(after[:, : i + 1], before[:, : i + 1])
        if i < SMALL.codes - 1:
            assert not torch.allclose(after[:, i + 1], before[:, i + 1])


def test_the_caption_reaches_every_prediction(model, clip):
    codes, captions = clip
    before = wake(model)(codes, captions)
    after = model(codes, captions.roll(1, dims=0))
    assert ((after - before).abs().amax(-1) > 0).all()


def test_untrained_loss_is_that_of_guessing(clip):
    torch.manual_seed(0)
    model = GPT(SMALL)
    assert model.loss(*clip).mean().item() == pytest.approx(math.log(97), rel=0.1)


def test_an_untrained_model_looks_at_the_place_it_predicts_in_the_frame_before(model):
    bias_S = model.blocks[0].attention.q_norm.bias.detach()
    bias_TS = bias_S.expand(SMALL.text_length + SMALL.codes, -1)
    match_TT = rotate(bias_TS, model.there_2TP) @ rotate(bias_TS, model.here_2TP).mT
    for code in range(SMALL.codes_per_frame, SMALL.codes):
        frame_start = code - code % SMALL.codes_per_frame
        earlier = match_TT[SMALL.text_length + code - 1, SMALL.text_length :][:frame_start]
        assert earlier.argmax() == code - SMALL.codes_per_frame


def test_sequence_runs_frame_by_frame_then_view_by_view():
    tokens = torch.arange(2 * 3 * 2 * 2).reshape(1, 2, 3, 2, 2)  # 2 views, 3 frames, 2 x 2 codes
    assert to_sequence(tokens)[0, :10].tolist() == [0, 1, 2, 3, 12, 13, 14, 15, 4, 5]


def test_generation_with_a_cache_is_what_the_whole_sequence_predicts(model, clip):
    codes, captions = clip
    given = codes[:, : SMALL.codes_per_frame]
    generated = continue_frames(wake(model), given, captions, SMALL.frames)
    assert torch.equal(generated[:, : SMALL.codes_per_frame], given)
    likeliest = model(generated, captions).argmax(-1)
    n = SMALL.codes_per_frame
    assert torch.equal(likeliest[:, n:], generated[:, n:])


def test_the_gate_raises_the_code_one_frame_earlier_and_no_other(model, clip):
    codes, captions = clip
    wake(model).copy_gate.weight.data.zero_()
    n, logits = SMALL.codes_per_frame, {}
    for bias in (-100.0, 50.0):
        model.copy_gate.bias.data.fill_(bias)
        logits[bias] = model(codes, captions)
    raised = logits[50.0] - logits[-100.0]
    assert not raised[:, :n].any()
    there = torch.zeros_like(raised[:, n:]).scatter_(2, codes[:, :-n, None], 50.0)
    torch.testing.assert_close(raised[:, n:], there)


def gradients(model, clip):
    model.zero_grad()
    loss = model.loss(*clip).mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def test_activation_checkpointing_changes_no_gradient(model, clip):
    wake(model)
    plain = gradients(model, clip)
    model.activation_checkpointing = True
    entered = []
    hooks = [b.register_forward_pre_hook(lambda b, _: entered.append(b)) for b in model.blocks]
    recomputed = gradients(model, clip)
    assert len(entered) == 2 * len(hooks)
    torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("recompute", [False, True])
def test_the_loss_is_one_graph_for_the_compiler(model, clip, recompute):
    plain = gradients(wake(model), clip)
    model.activation_checkpointing = recompute
    torch._dynamo.reset()
    # aot_eager captures and differentiates like the real compiler, and needs no g++
    model.loss = torch.compile(model.loss, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(gradients(model, clip), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_model_learns_what_an_eager_one_does(clip):
    torch.manual_seed(0)
    model = GPT(replace(SMALL, layers=1))
    loss, gradient = gradients(wake(model), clip)
    torch._dynamo.reset()
    model.loss = torch.compile(model.loss, fullgraph=True, dynamic=False)
    compiled_loss, compiled_gradient = gradients(model, clip)
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-3, atol=1e-5)


def full_shape(size):
    grid = {"views": 1, "frames": 5, "rows": 16, "cols": 16}
    text_shape = {"text_length": 24, "text_width": 512}
    return Shape(**SIZES[size]._asdict(), codebook_size=8192, **grid, **text_shape)


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters()) / 1e6


@pytest.mark.parametrize(("size", "millions"), [("s", 30), ("b", 95), ("l", 312), ("xl", 719)])
def test_sizes_are_those_of_the_paper(size, millions):
    assert count(lambda: GPT(full_shape(size))) == pytest.approx(millions, rel=0.03)


def test_frozen_and_total_are_those_of_the_paper():
    from diffusers import VQModel
    from transformers import CLIPTextConfig, CLIPTextModel

    clip = count(lambda: CLIPTextModel(CLIPTextConfig()))  # the defaults are those of ViT-B/32
    down = ["DownEncoderBlock2D"] * 4 + ["AttnDownEncoderBlock2D"]
    vqgan = count(
        lambda: VQModel(
            down_block_types=down,
            up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 128, 256, 256, 512],
            layers_per_block=2,
            latent_channels=256,
            num_vq_embeddings=1024,
        )
    )
    print(f"\nfrozen: CLIP text {clip:.1f} M + VQGAN f16 {vqgan:.1f} M = {clip + vqgan:.1f} M")
    for size in ("s", "b", "l", "xl"):
        trained = count(lambda size=size: GPT(full_shape(size)))
        print(f"{size:<3}{trained:>8.1f} M trainable {trained + clip + vqgan:>8.1f} M total")
    assert clip + vqgan == pytest.approx(135, rel=0.03)
    assert count(lambda: GPT(full_shape("b"))) + clip + vqgan == pytest.approx(230, rel=0.03)


def test_baselines_by_hand():
    # one clip, one view, two frames of 2 x 2 codes
    train = np.array([[[[[0, 1], [2, 3]], [[0, 1], [2, 0]]]]], dtype=np.uint16)
    unigram = Unigram.fit(train, codebook_size=4)
    assert (unigram.probability_K * 12).tolist() == [4, 3, 3, 2]  # counts 3 2 2 1, plus one each

    score = unigram.score(np.array([[0, 0], [3, 1]], dtype=np.uint16))
    assert score.accuracy == 0.5
    expected = -(2 * math.log(4 / 12) + math.log(2 / 12) + math.log(3 / 12)) / 4
    assert score.cross_entropy == pytest.approx(expected)

    copy = CopyLastFrame(0.75, unigram)
    score = copy.score(train)  # three of four codes stay, 3 becomes 0
    assert score.accuracy == 0.75
    stay = math.log(0.75 + 0.25 * 4 / 12) + 2 * math.log(0.75 + 0.25 * 3 / 12)
    assert score.cross_entropy == pytest.approx(-(stay + math.log(0.25 * 4 / 12)) / 4)


def test_the_fitted_copy_probability_is_the_best_one():
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (8, 2, 3, 4, 4)).astype(np.uint16)
    keep = random.random(codes[:, :, 1:].shape) < 0.7
    codes[:, :, 1:] = np.where(keep, codes[:, :, :1], codes[:, :, 1:])
    best = CopyLastFrame.fit(codes, Unigram.fit(codes, 16))
    fitted = best.score(codes).cross_entropy
    for p in (best.p - 0.02, best.p + 0.02):
        assert CopyLastFrame(p, best.unigram).score(codes).cross_entropy > fitted


def test_seeded_encoder_is_the_same_everywhere_and_tells_captions_apart():
    encoder, again = text.load("seeded", 12), text.load("seeded", 12)
    assert encoder.weights_sha256 == again.weights_sha256
    captions = ["move the red cup left", "move the left cup red", "Move the red cup left!"]
    a, b, c = encoder(captions)
    assert torch.equal(a, again([captions[0]])[0])
    assert torch.equal(a, c)
    assert (a - b).abs().max() > 0.1
    assert a.shape == (12, encoder.width)
    assert not a[7:].any()  # start, five words, end


def test_features_do_not_depend_on_the_batch_and_long_captions_keep_their_end():
    encoder = text.load("seeded", 5)
    long = "one two three four five six"
    together, alone = encoder(["a b", long])[1], text.load("seeded", 5)([long])[0]
    assert torch.equal(together, alone)
    assert text.hash_words(long)[-1] == text.END
    assert together.any(dim=1).all()


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    return write_clip_text(tmp_path_factory.mktemp("clip"))


def test_a_clip_folder_gives_the_features_that_transformers_gives(tiny_clip):
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = text.load(str(tiny_clip), 16)
    tokens = CLIPTokenizer.from_pretrained(tiny_clip)("red cup", return_tensors="pt")
    expected = CLIPTextModel.from_pretrained(tiny_clip)(**tokens).last_hidden_state[0]
    features = encoder(["red cup"])[0]
    torch.testing.assert_close(features[: len(expected)], expected, rtol=0, atol=1e-6)
    assert tokens["input_ids"].shape[1] == 6  # start, red, c, u, p, end
    assert encoder.width == 32


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no/such/folder", "no text encoder at 'no/such/folder'"),
        ("somebody/some-clip", "hf download somebody/some-clip --local-dir DIR"),
    ],
)
def test_a_text_encoder_that_is_not_there_is_refused(name, sentence, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=sentence):
        text.load(name, 16)


def test_a_folder_that_is_not_clip_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not load as a CLIP or BERT text encoder"):
        text.load(str(tmp_path), 16)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="type 't5'"):
        text.load(str(tmp_path), 16)


def test_captions_longer_than_the_encoder_reads_are_refused(tiny_clip):
    with pytest.raises(UserError, match="between 3 and 16"):
        text.load(str(tiny_clip), 17)
