"""Bytes of files as the code of the robot datasets wrote them: numpy 1 pickles, object arrays."""

import hashlib
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_pickle(value: Any) -> bytes:
    """A pickle as numpy 1 makes it, with which all of these datasets were written."""
    # Protocol 3 stores module names as plain text, so that the old one can be substituted.
    return pickle.dumps(value, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.")


def to_npy(array: NDArray[Any]) -> bytes:
    """An .npy file of an array of numbers."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def to_object_npy(value: Any) -> bytes:
    """An .npy file of a dict (an array without dimensions) or of a list of dicts."""
    array = np.empty(len(value) if isinstance(value, list) else (), object)
    array[...] = value
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {array.shape}, }}"
    # Magic, version and length take 10 bytes: with the newline the header ends at a multiple of 64.
    padded = (header + " " * (-(len(header) + 11) % 64) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + to_pickle(array)


def text_embedding(text: str, width: int = 512) -> NDArray[np.float32]:
    """A unit vector [width] in place of a sentence embedding; it depends on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=width)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)
