"""Files that are no weights, or lie about what they hold, are refused."""

import json
import zipfile

import pytest
import torch

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.vqgan.weights import open_weights


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": {"a": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"since 1\.6"):
        vqgan.load(str(path))
    torch.save({"model": {"a": torch.zeros(3)}}, path)
    with pytest.raises(UserError, match="no VQGAN that is known here"):
        vqgan.load(str(path))
    torch.save({"model": {"a": torch.zeros(3), "b": "text"}}, path)
    with pytest.raises(UserError, match='"b" among its tensors is none'):
        vqgan.load(str(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a dictionary of tensors"):
        vqgan.load(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="not readable as weights"):
        vqgan.load(str(path))
    with pytest.raises(UserError, match="no VQGAN at"):
        vqgan.load(str(tmp_path / "absent.pt"))
    for name in ("a.pt", "b.ckpt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="holds 3 checkpoints: name one"):
        vqgan.load(str(tmp_path))


def rewrite(path, out, edit):
    """Write a torch file again with its pickle changed, as an attacker would."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(
                info.filename, edit(content) if info.filename.endswith(".pkl") else content
            )


def test_tensors_outside_their_storage_are_refused(tmp_path):
    values = torch.arange(12, dtype=torch.float32)
    torch.save({"model": {"a": values.view(3, 4).T}}, tmp_path / "good.pt")
    a = open_weights(tmp_path / "good.pt")["a"]
    assert a.shape == (4, 3)
    assert (a.read() == values.view(3, 4).T.numpy()).all()
    torch.save({"model": {"a": values[:1].expand(1 << 40)}}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="does not lie inside its storage"):
        open_weights(tmp_path / "bomb.pt")
    # 12 floats become 200: the number is pickled as one byte after K
    rewrite(tmp_path / "good.pt", tmp_path / "long.pt", lambda p: p.replace(b"K\x0c", b"K\xc8"))
    with pytest.raises(UserError, match="smaller than its pickle says"):
        open_weights(tmp_path / "long.pt")
    rewrite(
        tmp_path / "good.pt", tmp_path / "memo.pt", lambda p: p[:2] + b"]r\xff\xff\xff\xff" + p[2:]
    )
    open_weights(tmp_path / "memo.pt")  # the unpickler in C would allocate 32 GB here


def test_safetensors_that_lie_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for entry, message in (
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}, "does not lie inside"),
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}, "does not lie inside"),
        ({"dtype": "F9", "shape": [4], "data_offsets": [0, 16]}, "F9"),
        ({"dtype": "F32"}, "shape"),
    ):
        header = json.dumps({"a": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(UserError, match=message):
            open_weights(path)
    path.write_bytes((1 << 60).to_bytes(8, "little"))
    with pytest.raises(UserError, match="does not fit the file"):
        open_weights(path)
