"""Weights are found under whatever name a library gives them, or said what is there instead."""

import copy
import json

import pytest
import torch

from handloom.errors import UserError
from handloom.tokenize import vqgan
from tests.helpers.vqgan_networks import SIDE
from tests.tokenize.vqgan.test_diffusers import vqmodel


def save_as(model, folder, form, precision=torch.float32):
    """What diffusers writes of a model, in one of its forms, and no other weights."""
    model = copy.deepcopy(model).to(precision)
    options = {
        "whole": {},
        "fp16": {"variant": "fp16"},
        "bin": {"safe_serialization": False},
        "fp16.bin": {"variant": "fp16", "safe_serialization": False},
        "parts": {"max_shard_size": "100KB"},
        "fp16 parts": {"variant": "fp16", "max_shard_size": "100KB"},
        "parts of .bin": {"safe_serialization": False, "max_shard_size": "100KB"},
    }
    model.save_pretrained(folder, **options[form])
    return folder


FORMS = ["fp16", "bin", "fp16.bin", "parts", "fp16 parts", "parts of .bin"]


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_other_files_give_the_same_codes(tmp_path, frames_thwc, form):
    model = vqmodel()
    whole = vqgan.load(str(save_as(model, tmp_path / "whole", "whole")), resolution=SIDE)
    other = save_as(model, tmp_path / "other", form)
    assert not (other / vqgan.WEIGHTS).exists()
    assert (len(list(other.iterdir())) > 2) == ("parts" in form)
    loaded = vqgan.load(str(other), resolution=SIDE)
    assert (loaded.encode(frames_thwc) == whole.encode(frames_thwc)).all()


def test_full_precision_is_read_where_both_are_there(tmp_path):
    save_as(vqmodel(), tmp_path, "fp16", torch.float16)
    half = vqgan.describe(str(tmp_path))["weights_sha256"]
    save_as(vqmodel(), tmp_path, "whole")
    whole = vqgan.describe(str(tmp_path))["weights_sha256"]
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert vqgan.describe(str(tmp_path))["weights_sha256"] == whole != half


def test_half_precision_alone_is_read(tmp_path, frames_thwc):
    save_as(vqmodel(), tmp_path, "fp16", torch.float16)
    assert vqgan.load(str(tmp_path), resolution=SIDE).encode(frames_thwc).shape[0] == len(
        frames_thwc
    )


def test_weights_that_are_not_read_are_named_with_a_way_out(tmp_path):
    save_as(vqmodel(), tmp_path / "parts", "parts")
    (index,) = (tmp_path / "parts").glob("*.index.json")
    listed = json.loads(index.read_text())
    index.unlink()
    with pytest.raises(UserError, match=r"-00001-of-0.*but no .*index\.json; download that too"):
        vqgan.describe(str(tmp_path / "parts"))
    climbing = dict.fromkeys(listed["weight_map"], "../../secret.safetensors")
    index.write_text(json.dumps({"weight_map": climbing}))
    (tmp_path.parent / "secret.safetensors").touch()
    with pytest.raises(UserError, match=r"has no secret\.safetensors: download it"):
        vqgan.describe(str(tmp_path / "parts"))
    index.write_text("[" * 100_000)
    with pytest.raises(UserError, match="not readable as JSON"):
        vqgan.describe(str(tmp_path / "parts"))
    save_as(vqmodel(), tmp_path / "flax", "whole")
    weights = tmp_path / "flax" / vqgan.WEIGHTS
    weights.rename(tmp_path / "flax/diffusion_flax_model.msgpack")
    with pytest.raises(UserError, match=r"holds diffusion_flax_model\.msgpack, .*save_pretrained"):
        vqgan.describe(str(tmp_path / "flax"))
    (tmp_path / "flax/diffusion_flax_model.msgpack").rename(tmp_path / "flax/mine.safetensors")
    with pytest.raises(UserError, match=r"holds mine\.safetensors; give .* that name"):
        vqgan.describe(str(tmp_path / "flax"))
