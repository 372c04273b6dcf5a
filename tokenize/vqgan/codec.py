"""A loaded VQGAN: frames in, codes out, and back."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("float32", "tf32", "bfloat16", "float16")
"""`tf32` is float32 whose products a GPU rounds to 10 bits; on a CPU it is float32."""
GPU_BATCH = 16  # frames; the one shape that an accelerator ever sees


@dataclass(frozen=True)
class VQGAN:
    """A frozen VQGAN with everything that decides its codes. Make one with `load`.

    Shapes: T frames, H = W = `resolution`, I = J = `resolution` / `downsample` rows and columns.
    """

    name: str
    """The sidecar's name, else that of the folder or file, or the hub id; for people."""
    weights_sha256: str
    """SHA-256 of configuration and weights: the identity of the tokenizer."""
    codebook_size: int
    """Codes run from 0 to this, exclusive."""
    downsample: int
    """Pixels per code, along each side."""
    resolution: int
    """Side of the frames in pixels."""
    input_range: tuple[float, float]
    """Values of black and white in the network's input."""
    network: Any = field(repr=False, compare=False)
    """A `network.Network`, or a `diffusers.VQModel` that is still being trained."""
    device: str = field(default="cpu", compare=False)
    dtype: str = field(default="float32", compare=False)
    """Type of encoder and decoder, one of `DTYPES`; the search for the nearest code is always
    float32."""
    exact: bool = field(default=True, compare=False)
    """A frame's codes depend on its pixels alone; see `encode`."""
    threads: int = field(default=1, compare=False)
    """Frames that a CPU computes at the same time."""

    def encode(self, frames_thwc: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Turn frames into codes.

        With `exact`, a frame's codes are the same whatever it is encoded with. On CPU each frame
        runs by itself, first through fast convolutions; one with a latent so close to two codes
        that their error could decide runs again through direct ones. On another device batches
        have one fixed shape, so that the same kernels run, and the last is filled up with black.

        Args:
            frames_thwc: uint8 [T, H, W, 3] RGB, prepared with `frames.center_square`.

        Returns:
            uint16 [T, I, J].

        Raises:
            ValueError: another dtype or shape.
        """
        side = self.resolution
        if frames_thwc.dtype != np.uint8 or frames_thwc.shape[1:] != (side, side, 3):
            raise ValueError(
                f"{self.name} encodes uint8 [T, {side}, {side}, 3] frames, "
                f"got {frames_thwc.dtype} {list(frames_thwc.shape)}: use frames.center_square"
            )
        grid = side // self.downsample
        codes_tij = np.empty((len(frames_thwc), grid, grid), np.uint16)

        def encode(at: slice) -> Any:
            return self._ids(self._upload(frames_thwc[at]))

        for at, ids_bij in self._run(encode, codes_tij):
            codes_tij[at] = ids_bij[: at.stop - at.start].cpu().numpy()
        return codes_tij

    def decode(self, codes_tij: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Turn codes into frames.

        Args:
            codes_tij: uint16 [T, I, J], each below `codebook_size`.

        Returns:
            uint8 [T, H, W, 3] RGB.

        Raises:
            ValueError: another shape, or a code outside the codebook.
        """
        import torch

        from handloom.tokenize.vqgan.live import adapt

        grid = self.resolution // self.downsample
        if codes_tij.shape[1:] != (grid, grid):
            raise ValueError(
                f"{self.name} decodes [T, {grid}, {grid}] codes, got {list(codes_tij.shape)}"
            )
        if codes_tij.size and int(codes_tij.max()) >= self.codebook_size:
            raise ValueError(
                f"code {int(codes_tij.max())} is outside {self.name}'s codebook of "
                f"{self.codebook_size}: these codes come from another tokenizer"
            )
        side = self.resolution
        frames_thwc = np.empty((len(codes_tij), side, side, 3), np.uint8)
        network = adapt(self.network)

        def decode(at: slice) -> Any:
            ids_bij = torch.from_numpy(self._padded(codes_tij[at]).astype(np.int64))
            with self._autocast():
                x_bchw = network.decode(ids_bij.to(self.device))
            return self._unscale(x_bchw.float()).permute(0, 2, 3, 1)

        for at, x_bhwc in self._run(decode, codes_tij):
            frames_thwc[at] = x_bhwc[: at.stop - at.start].cpu().numpy()
        return frames_thwc

    def _ids(self, frames_bchw: Any) -> Any:
        """Ids [B, I, J] of a batch of uint8 frames that is on the device."""
        from handloom.tokenize.vqgan.live import adapt
        from handloom.tokenize.vqgan.search import nearest

        network = adapt(self.network)
        x_bchw = self._scale(frames_bchw)
        plain = self.device == "cpu" and self.dtype in ("float32", "tf32")
        if self.exact and plain and network.approximate:
            return network.search.ids(network, x_bchw)
        with self._autocast():
            z_bdij = network.latents(x_bchw)
        return nearest(network, z_bdij)

    def _run(self, work: Callable[[slice], Any], items: NDArray[Any]) -> list[tuple[slice, Any]]:
        """Each batch's slice and its result; a GPU is waited for once, after its last batch."""
        import torch

        def inferring(at: slice) -> tuple[slice, Any]:
            with torch.inference_mode(), self._deterministic():
                return at, work(at)

        batches = self._batches(items)
        if self.device != "cpu" or self.threads == 1 or len(batches) < 2:
            return [inferring(at) for at in batches]
        try:  # frames side by side: NNPACK has one thread, and others would wait for it
            with ThreadPoolExecutor(self.threads, "", torch.set_num_threads, (1,)) as pool:
                return list(pool.map(inferring, batches))
        finally:
            torch.set_num_threads(self.threads)

    def _batches(self, items: NDArray[Any]) -> list[slice]:
        size = 1 if self.device == "cpu" else GPU_BATCH
        return [slice(i, min(i + size, len(items))) for i in range(0, len(items), size)]

    def _padded(self, items: NDArray[Any]) -> NDArray[Any]:
        """A batch, with zeros up to the fixed size where that matters."""
        if self.device == "cpu" or not self.exact or len(items) == GPU_BATCH:
            return items
        return np.concatenate(
            [items, np.zeros((GPU_BATCH - len(items), *items.shape[1:]), items.dtype)]
        )

    def _upload(self, frames_bhwc: NDArray[np.uint8]) -> Any:
        """The frames as uint8 [B, 3, H, W] on the device, a quarter of what floats would be."""
        import torch

        # a copy, for torch warns of read-only arrays
        frames = torch.from_numpy(np.array(self._padded(frames_bhwc)))
        if self.device.startswith("cuda"):
            frames = frames.pin_memory()  # so that the copy overlaps with the batch before
        # permuting a BHWC array gives exactly torch's channels_last layout: no copy
        return frames.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def _scale(self, frames: Any) -> Any:
        low, high = self.input_range
        x = frames.float().div_(255.0).mul_(high - low).add_(low)  # as ToTensor and what follows it
        return x.contiguous() if self.device == "cpu" else x  # NNPACK wants planes of channels

    def _unscale(self, x: Any) -> Any:
        import torch

        low, high = self.input_range
        return ((x - low) * (255.0 / (high - low))).round().clamp(0, 255).to(torch.uint8)

    def _autocast(self) -> Any:
        import torch

        kind, dtype = self.device.split(":")[0], getattr(torch, self.dtype, torch.float32)
        return torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)

    def _deterministic(self) -> Any:
        import torch

        if not self.device.startswith("cuda"):
            return contextlib.nullcontext()
        # trying kernels out would choose another one in another process
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=not self.exact, deterministic=self.exact,
            allow_tf32=self.dtype != "float32",
        )  # fmt: skip
