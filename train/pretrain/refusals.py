"""Folders that one model cannot learn from together, refused before anything is written."""

from collections.abc import Mapping
from pathlib import Path

from handloom.errors import UserError
from handloom.tokenize.shards import ShardDataset
from handloom.tokenize.shards.windows import ClipWindows


def check_tokenizers(datasets: Mapping[str, ShardDataset]) -> None:
    """Raise UserError where the codes of folders do not mean the same."""
    tokenizers = {folder: data.manifest["tokenizer"] for folder, data in datasets.items()}
    if len({found["weights_sha256"] for found in tokenizers.values()}) > 1:
        listed = "; ".join(
            f"{folder}: {found['name']} ({found['weights_sha256'][:12]})"
            for folder, found in tokenizers.items()
        )
        raise UserError(
            f"the folders were encoded by different tokenizers ({listed}), and a model reads the "
            f"codes of one: leave some out, or {_command(datasets)}."
        )


def check_grids(sources: Mapping[str, ClipWindows]) -> None:
    """Raise UserError where pictures are of different sizes in codes."""
    if len({grid for source in sources.values() for grid in source.grids}) > 1:
        listed = "; ".join(
            f"{folder}: {', '.join(f'[{rows}, {columns}]' for rows, columns in source.grids)}"
            for folder, source in sources.items()
        )
        datasets = {folder: source.data for folder, source in sources.items()}
        raise UserError(
            f"the clips have codes of several shapes [rows, columns]: {listed}; one model takes "
            f"one. Leave some out, or {_command(datasets)}."
        )


def _command(datasets: Mapping[str, ShardDataset]) -> str:
    """The command that makes the last folder fit the first one."""
    (_, first), (folder, last) = (list(datasets.items())[i] for i in (0, -1))
    tokenizer, name = first.manifest["tokenizer"], last.manifest.get("dataset", "DATASET")
    model = tokenizer.get("model", tokenizer["name"])
    side = tokenizer.get("resolution")
    options = f"--tokens.model {model}" + (f" --tokens.resolution {side}" if side else "")
    out = Path(folder).parent if "://" not in folder else "RUN"
    return f"encode all with one: `handloom curate {name} --data DIR --out {out} {options}`"


def check_windows(folder: str, source: ClipWindows) -> None:
    """Raise UserError where a folder of clips gives no window; says what would give some."""
    counts, cut = source.counts, source.cut
    if counts.windows or not counts.clips:
        return
    where = f"{folder}/{source.split}"
    if counts.without_views == counts.clips:
        wanted, there = ", ".join(cut.views), ", ".join(source.views)
        at_once = "all of the views" if cut.joint else "any of the views"
        raise UserError(
            f"{where} has no clip with {at_once} {wanted}: its views are {there}. Name one of "
            "those with --views, leave --views and --joint-views out (each view is then a sample "
            "of its own), or leave the folder out."
        )
    spacing = "" if source.spacing_s is None else f" {source.spacing_s:g} s apart"
    if counts.too_sparse >= counts.too_short:
        raise UserError(
            f"{where} holds no {cut.frames} different pictures{spacing}: its pictures are up to "
            f"{counts.sparsest_s:.3g} s apart. Raise --spacing-s to {counts.sparsest_s:.3g} or "
            "more; clips of people can be encoded more densely (`handloom curate … "
            "--tokens.spacing-s`)."
        )
    raise UserError(
        f"{where}: each of its {counts.clips:,} clips is too short for {cut.frames} frames"
        f"{spacing}: the longest one has {counts.longest} different pictures, and "
        f"{counts.needed} are needed. Lower --frames or --spacing-s, or leave the folder out."
    )


def described(source: ClipWindows) -> str:
    """The windows of a folder in one line, with the clips that give none."""
    counts = source.counts
    spacing = "" if source.spacing_s is None else f" {source.spacing_s:g} s apart"
    parts = [f"{counts.windows:,} windows of {counts.used:,} clips"]
    reasons = {
        f"too short for {source.cut.frames} frames{spacing}": counts.too_short,
        "with pictures too far apart": counts.too_sparse,
        "without the views": counts.without_views,
    }
    parts += [f"{count:,} {reason}" for reason, count in reasons.items() if count]
    return f"{source.path}/{source.split}: {'; '.join(parts)}"
