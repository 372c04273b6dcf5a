"""A checkpoint's weights as a network in eval mode."""

import torch

from handloom.errors import UserError
from handloom.tokenize.vqgan.checkpoints import Checkpoint
from handloom.tokenize.vqgan.network import Network


def build(checkpoint: Checkpoint) -> Network:
    """Read the weights into a network in eval mode, float32, on the CPU.

    Raises:
        UserError: a tensor's shape does not fit its neighbours'.
    """
    state = {name: torch.from_numpy(tensor.read()) for name, tensor in checkpoint.tensors.items()}
    try:
        with torch.device("meta"):  # shapes alone: random weights would take longer than reading
            network = Network(checkpoint.tensors, checkpoint.groups, checkpoint.layout.unit_codes)
            network.load_state_dict({name: values.to("meta") for name, values in state.items()})
        network.load_state_dict(state, assign=True)
        _check_widths(network)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"{checkpoint.where} does not load as {checkpoint.layout.name} ({lines[-1].strip()}): "
            "its tensors do not fit each other"
        ) from error
    bad = next((name for name, values in state.items() if not values.isfinite().all()), None)
    if bad is not None:
        raise UserError(f"{checkpoint.where}: {bad} holds NaN or infinity: download it again")
    return network.eval().requires_grad_(False)


def _check_widths(network: Network) -> None:
    """Run a picture of 2 x 2 codes through the network, whose widths all come from its weights.

    Not on the meta device: its first forward pass imports torch's compiler, a second of CPU time.
    """
    side = 2 * 2 ** (len(network.encoder.levels) - 1)
    with torch.inference_mode():
        latents = network.quant_conv(network.encoder(torch.zeros(1, 3, side, side)))
        decoded = network.decode(torch.zeros(1, 2, 2, dtype=torch.int64))
    if latents.shape[1:] != (network.codebook.shape[1], 2, 2) or decoded.shape[2] != side:
        raise ValueError(f"latents are {list(latents.shape)}, pictures {list(decoded.shape)}")
