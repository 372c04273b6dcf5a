"""Files of each family of VQGANs beside its weights, read into one `Checkpoint`.

- diffusers' VQModel: `config.json`, `diffusion_pytorch_model.safetensors` (or another form, see
  `weight_files`), and a sidecar `handloom.json` that says what the configuration does not;
- transformers' JanusVQVAE, or a whole Janus model: `config.json`, `*.safetensors`;
- taming-transformers: a `.ckpt`, and its yaml beside it or in `../configs/`;
- LlamaGen: a `.pt`, which needs no configuration.

Nothing here imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.tokenize.vqgan.json_file import read_json
from handloom.tokenize.vqgan.layouts import (
    DIFFUSERS,
    JANUS,
    LLAMAGEN,
    TAMING,
    Layout,
    recognise,
    translate,
)
from handloom.tokenize.vqgan.weight_files import open_model
from handloom.tokenize.vqgan.weights import Stored, open_weights

CONFIG, WEIGHTS, SIDECAR = "config.json", "diffusion_pytorch_model.safetensors", "handloom.json"
GROUPS = 32  # taming-transformers and its descendants write it into the code


@dataclass(frozen=True)
class Checkpoint:
    """A VQGAN's files and what they claim. Make one with `find`."""

    where: Path
    """The folder or file that a message should name."""
    name: str
    layout: Layout
    files: tuple[Path, ...]
    """The files that its hash covers."""
    tensors: dict[str, Stored] = field(repr=False)
    """Tensors by canonical name; see `layouts.py`."""
    groups: int
    claims: dict[str, int]
    """codebook_size, code_width and levels, where a configuration states them."""
    input_range: tuple[float, float] | None
    """Values of black and white, as the sidecar or the layout states them; None where none does."""
    resolution: int | None
    """Side of the frames in pixels, as sidecar or configuration state it; None where none does."""


def diffusers(folder: Path, name: str, config: dict[str, Any]) -> Checkpoint:
    """Open a folder with a VQModel; raises UserError where its files do not fit together."""
    files, stored = open_model(folder, (WEIGHTS.removesuffix(".safetensors"),))
    if config.get("act_fn", "silu") not in ("silu", "swish"):
        raise UserError(f"{folder} activates by {config['act_fn']}; only silu is known here")
    sidecar = read_json(folder / SIDECAR) if (folder / SIDECAR).is_file() else {}
    width = config.get("vq_embed_dim") or config.get("latent_channels", 3)
    claims = {
        "codebook_size": config.get("num_vq_embeddings", 256),
        "code_width": width,
        "levels": len(config.get("block_out_channels", [64])),
    }
    if "codebook_size" in sidecar and sidecar["codebook_size"] != claims["codebook_size"]:
        raise UserError(
            f"{folder / SIDECAR} says {sidecar['codebook_size']:,} codes, {CONFIG} "
            f"{claims['codebook_size']:,}: the two come from different models"
        )
    return Checkpoint(
        where=folder,
        name=sidecar.get("name") or name,
        layout=DIFFUSERS,
        files=(folder / CONFIG, *files),
        tensors=translate(stored, DIFFUSERS, folder),
        groups=int(config.get("norm_num_groups", 32)),
        claims={key: int(value) for key, value in claims.items()},
        input_range=_pair(sidecar.get("input_range"), folder / SIDECAR),
        resolution=sidecar.get("resolution"),
    )


def _pair(value: Any, path: Path) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{path}: input_range should be two numbers, found {value}")
    return float(value[0]), float(value[1])


def janus(folder: Path, name: str, config: dict[str, Any]) -> Checkpoint:
    """Open a folder with a JanusVQVAE, or with a whole Janus model, whose VQ model is taken.

    transformers' own `encode` compares latents and codes without scaling them to length 1, as the
    model was trained and as its `decode` does; the two agree where codes have length 1 already.

    Raises:
        UserError: its files do not fit together.
    """
    whole = config["model_type"] == "janus"
    options = config.get("vq_config", {}) if whole else config
    if options.get("double_latent") or options.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{folder} is a Janus of another make: double_latent must be off")
    multipliers = options.get("channel_multiplier", [1, 1, 2, 2, 4])
    vision = config.get("vision_config", {})
    # transformers overrides the number of patches by the vision model's, where there is one
    patches = (
        vision.get("image_size", 384) // vision.get("patch_size", 16)
        if whole
        else options.get("num_patches", 32)
    )
    prefix = "model.vqmodel." if whole else ""
    # transformers calls a .bin otherwise.
    files, stored = open_model(folder, ("model", "pytorch_model"), prefix)
    return Checkpoint(
        where=folder,
        name=name,
        layout=JANUS,
        files=(folder / CONFIG, *files),
        tensors=translate(stored, JANUS, folder),
        groups=GROUPS,
        claims={
            "codebook_size": int(options.get("num_embeddings", 16384)),
            "code_width": int(options.get("embed_dim", 8)),
            "levels": len(multipliers),
        },
        input_range=JANUS.input_range,
        resolution=int(patches) * 2 ** (len(multipliers) - 1),
    )


def torch_file(path: Path) -> Checkpoint:
    """Open a `.ckpt` of taming-transformers or a `.pt` of LlamaGen.

    Raises:
        UserError: neither, no yaml where one is needed, or a yaml of another model.
    """
    stored = open_weights(path)
    layout = recognise(set(stored), path)
    tensors = translate(stored, layout, path)
    yaml_path = _yaml_of(path) if layout is TAMING else None
    if layout is TAMING and yaml_path is None:
        raise UserError(
            f"{path} has no configuration: expected {path.with_suffix('.yaml').name} or model.yaml "
            "beside it, or model.yaml in ../configs, as taming-transformers publishes it"
        )
    options = read_taming(yaml_path) if yaml_path else None
    if options:
        options.check_attention(tensors, path)
    return Checkpoint(
        where=path,
        name=path.stem if layout is LLAMAGEN or path.stem != "last" else path.parent.parent.name,
        layout=layout,
        files=(yaml_path, path) if yaml_path else (path,),
        tensors=tensors,
        groups=GROUPS,
        claims=options.claims if options else {},
        input_range=layout.input_range,
        resolution=options.resolution if options else None,
    )


def _yaml_of(path: Path) -> Path | None:
    configs = path.parent.parent / "configs"
    places = [path.with_suffix(".yaml"), path.parent / "model.yaml", configs / "model.yaml"]
    places += sorted(configs.glob("*-project.yaml"), reverse=True)  # of a training run, the newest
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class TamingOptions:
    """The network of a yaml of taming-transformers."""

    claims: dict[str, int]
    resolution: int
    attention_at: frozenset[int]

    def check_attention(self, tensors: dict[str, Stored], where: Path) -> None:
        """Refuse a yaml whose attention is at other levels than that of the weights."""
        for i in range(self.claims["levels"]):
            has = f"encoder.levels.{i}.attentions.0.q.weight" in tensors
            if has != (self.resolution // 2**i in self.attention_at):
                raise UserError(
                    f"{where}: attention_resolutions of its yaml do not fit level {i} of its "
                    "weights: the two come from different models"
                )


def read_taming(path: Path) -> TamingOptions:
    """Read the yaml of a VQModel.

    Raises:
        UserError: not such a yaml, or a VQModel of another make.
    """
    import yaml

    try:
        model = yaml.safe_load(path.read_text())["model"]
        options, network = model["params"], model["params"]["ddconfig"]
        numbers = {key: int(options[key]) for key in ("n_embed", "embed_dim")}
        resolution, levels = int(network["resolution"]), len(network["ch_mult"])
        attention_at = frozenset(map(int, network["attn_resolutions"]))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not the yaml of a taming VQModel: {error!r}") from error
    odd = {"remap": options.get("remap"), "double_z": network.get("double_z")}
    if any(odd.values()) or "Gumbel" in str(model.get("target")):
        raise UserError(f"{path}: {odd} of {model.get('target')} is not known here")
    claims = {
        "codebook_size": numbers["n_embed"],
        "code_width": numbers["embed_dim"],
        "levels": levels,
    }
    return TamingOptions(claims, resolution, attention_at)
