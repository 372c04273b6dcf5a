"""The stage-1 GPT: text, then frames of image codes, and the next code as the only task.

    [text features through an MLP] [frame 0: view 0, view 1, ...] [frame 1: ...] ...

Attention is causal, so a code is predicted from the caption and from all codes before it. A learned
gate raises the logit of the code that stood at the same place one frame earlier.

Shape legend: B batch, L text length, E text feature width, V views, F frames, R rows, C columns,
N = F*V*R*C codes a clip (frame after frame, view after view, row after row), T = L + N positions,
D width, H heads, S width of a head, P = S/2 pairs that are rotated, K codebook size.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handloom.train.model.shape import Shape


def to_sequence(tokens_BVFRC: Tensor) -> Tensor:
    """Codes of clips in the order in which the model predicts them: int64 [B, N]."""
    return tokens_BVFRC.transpose(1, 2).flatten(1).long()


class Tables(NamedTuple):
    """Tables that depend on the weights alone, so that generation makes them once for all codes."""

    place_ND: Tensor
    """`GPT._places`."""
    direction_KD: Tensor
    """`GPT._directions`, in the type in which matrices are multiplied."""
    embedding_KD: Tensor
    """The directions as codes are embedded."""


class Cache:
    """Keys, values and tables of earlier calls, so that generation feeds one code at a time."""

    def __init__(self, shape: Shape, batch: int, device: torch.device) -> None:
        length, width = shape.text_length + shape.codes, shape.width // shape.heads
        self.kv = torch.zeros(shape.layers, 2, batch, shape.heads, length, width, device=device)
        self.codes_Bn = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self.visible_BT: Tensor | None = None  # mask of what may be attended to; None for all
        self.filled = 0
        self.tables: Tables | None = None

    def extend(self, layer: int, k_BHTS: Tensor, v_BHTS: Tensor) -> tuple[Tensor, Tensor]:
        """Add one layer's newest keys and values; returns those of all positions so far."""
        end = self.filled + k_BHTS.shape[2]
        self.kv[layer, 0, :, :, self.filled : end] = k_BHTS
        self.kv[layer, 1, :, :, self.filled : end] = v_BHTS
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]


class Turns(NamedTuple):
    """Cosines and sines [2, T, P] of the place a position holds and of the place it predicts."""

    here: Tensor
    there: Tensor


def rotate(x_BHTS: Tensor, turn_2TP: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864): turn pair i of each head by its angle."""
    cos, sin = turn_2TP
    a, b = x_BHTS.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Causal self-attention; queries have the position of the code that they are to predict."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads)
        self.k_norm = nn.LayerNorm(width // heads)

    def forward(
        self, x_BTD: Tensor, turns: Turns, cache: Cache | None, mask: Tensor | None
    ) -> Tensor:
        """Mix over earlier positions; with a cache, over those of earlier calls too.

        A mask, bool [b, 1, T, all positions], takes the place of plain causality for the last b
        samples.
        """
        split = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1))
        # One copy here saves one in each norm, and attention reads whole rows faster on a CPU.
        q_BHTS, k_BHTS, v_BHTS = split.permute(2, 0, 3, 1, 4).contiguous()
        q_BHTS = rotate(self.q_norm(q_BHTS), turns.there)
        k_BHTS = rotate(self.k_norm(k_BHTS), turns.here)
        if cache is not None:
            k_BHTS, v_BHTS = cache.extend(self.layer, k_BHTS, v_BHTS)
        y_BHTS = _attend(q_BHTS, k_BHTS, v_BHTS, mask)
        out: Tensor = self.out(y_BHTS.transpose(1, 2).flatten(2))
        return out


def _attend(q_BHTS: Tensor, k_BHTS: Tensor, v_BHTS: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention; the last samples have a mask in its place, as `Attention.forward` says.

    The fast kernels know plain causality alone: a mask that a few samples need is not for all.
    """
    attend, plain = F.scaled_dot_product_attention, len(q_BHTS) - (0 if mask is None else len(mask))
    if not plain:
        return attend(q_BHTS, k_BHTS, v_BHTS, mask)
    # A single new code may attend to all that the cache holds.
    causal = q_BHTS.shape[2] > 1
    if mask is None:
        return attend(q_BHTS, k_BHTS, v_BHTS, is_causal=causal)
    q, k, v = ((t[:plain], t[plain:]) for t in (q_BHTS, k_BHTS, v_BHTS))
    both = attend(q[0], k[0], v[0], is_causal=causal), attend(q[1], k[1], v[1], mask)
    return torch.cat(both)


class Block(nn.Module):
    """Attention, then an MLP four times as wide, each on the normalised residual stream."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        # LayerNorm, not RMSNorm: on CPU it is one kernel, three to four times faster.
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads, layer)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x_BTD: Tensor, turns: Turns, cache: Cache | None, mask: Tensor | None
    ) -> Tensor:
        """One residual step."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), turns, cache, mask)
        out: Tensor = x_BTD + self.down(F.gelu(self.up(self.mlp_norm(x_BTD))))
        return out


class GPT(nn.Module):
    """Text and codes in, a distribution over the next code out.

    With `activation_checkpointing` set, only what enters a block is kept, and the block runs again
    on the way back: the same gradients from much less memory, in about a third more time.
    """

    here_2TP: Tensor
    there_2TP: Tensor
    fsdp_methods = ("loss",)

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.activation_checkpointing = False
        self.code = nn.Embedding(shape.codebook_size, shape.width)  # also the output layer
        self.text_in = nn.Linear(shape.text_width, shape.width)
        self.text_out = nn.Linear(shape.width, shape.width)
        self.text_position = nn.Embedding(shape.text_length, shape.width)
        axes = (shape.frames, shape.views, shape.rows, shape.cols)
        self.position = nn.ModuleList(nn.Embedding(size, shape.width) for size in axes)
        self.input_norm = nn.LayerNorm(shape.width, bias=False)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, layer) for layer in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.copy_gate = nn.Linear(shape.width, 1)
        self._make_places(axes)
        self.apply(_initialise)

    def _make_places(self, axes: tuple[int, ...]) -> None:
        grid = torch.meshgrid(*(torch.arange(size) for size in axes), indexing="ij")
        place_N4 = torch.stack(grid, dim=-1).flatten(0, -2)
        angle_NP = _angles(place_N4, self.shape.width // self.shape.heads // 2)
        text_LP = angle_NP.new_zeros(self.shape.text_length, angle_NP.shape[1])
        # The last text position predicts code 0, code i predicts code i + 1, the last code nothing.
        here_TP = torch.cat([text_LP, angle_NP])
        there_TP = torch.cat([text_LP[1:], angle_NP, angle_NP[-1:]])
        for name, angle in (("here_2TP", here_TP), ("there_2TP", there_TP)):
            self.register_buffer(name, torch.stack([angle.cos(), angle.sin()]), persistent=False)

    def fsdp_blocks(self) -> list[nn.Module]:
        """The modules that FSDP gathers one after the other."""
        return list(self.blocks)

    def embed_text(self, text_BLE: Tensor) -> Tensor:
        """[B, L, D] from frozen per-token features."""
        text_BLD = self.text_out(F.gelu(self.text_in(text_BLE)))
        out: Tensor = self.input_norm(text_BLD + self.text_position.weight)
        return out

    def embed_codes(
        self,
        codes_Bn: Tensor,
        start: int = 0,
        extra_BnD: Tensor | None = None,
        tables: Tables | None = None,
    ) -> Tensor:
        """[B, n, D] from codes that stand at `start`, `start + 1`, ... of the clip."""
        place_ND = self._places() if tables is None else tables.place_ND
        embedding_KD = self._embedding() if tables is None else tables.embedding_KD
        x_BnD = F.embedding(codes_Bn, embedding_KD) + place_ND[start : start + codes_Bn.shape[1]]
        out: Tensor = self.input_norm(x_BnD if extra_BnD is None else x_BnD + extra_BnD)
        return out

    def _places(self) -> Tensor:
        """Frame, view, row and column of each place of a clip, as one vector: [N, D]."""
        tables: list[Tensor] = [table.get_parameter("weight") for table in self.position]
        frames_FD, views_VD, rows_RD, cols_CD = tables
        place_ND = rows_RD[:, None] + cols_CD
        for table in (views_VD, frames_FD):
            place_ND = table[:, None] + place_ND.flatten(0, -2)
        return place_ND.flatten(0, -2)

    def _directions(self) -> Tensor:
        """The codes as directions [K, D], all of one length, for input and output alike.

        With free lengths, codes that training shows seldom stay short, and their logits small: a
        tiny model then cannot even repeat them (74 % of them against 93 % this way).
        """
        return F.normalize(self.code.weight, dim=-1)

    def _embedding(self) -> Tensor:
        """The vectors that codes are turned into [K, D]."""
        # Numbers of a direction have a size of width ** -0.5; scaled, the 0.02 of other embeddings.
        out: Tensor = self._directions() * (0.02 * self.shape.width**0.5)
        return out

    def _tables(self) -> Tables:
        direction_KD, kind = self._directions(), self.code.weight.device.type
        if torch.is_autocast_enabled(kind):  # which would cast all of it again for every code
            direction_KD = direction_KD.to(torch.get_autocast_dtype(kind))
        return Tables(self._places(), direction_KD, self._embedding())

    def forward(self, codes_BN: Tensor, text_BLE: Tensor) -> Tensor:
        """Logits [B, N, K]; entry i predicts code i from the text and the codes before i."""
        x_BTD = torch.cat([self.embed_text(text_BLE), self.embed_codes(codes_BN[:, :-1])], dim=1)
        return self.predict(self._run_blocks(x_BTD)[-1], codes_BN)

    def hidden(
        self,
        codes_Bn: Tensor,
        text_BLE: Tensor,
        visible_Bn: Tensor | None = None,
        extra_BnD: Tensor | None = None,
    ) -> list[Tensor]:
        """The residual stream before the first block and after each block, all [B, L + n, D].

        Args:
            codes_Bn: int64, any number of codes from the start of a clip.
            text_BLE: features of the captions.
            visible_Bn: bool; codes that are False hide from all others. None hides none; of fewer
                rows than clips, these are of the last clips, and those before them hide none.
            extra_BnD: added to what the codes are turned into.
        """
        embedded = self.embed_text(text_BLE), self.embed_codes(codes_Bn, extra_BnD=extra_BnD)
        return self._run_blocks(torch.cat(embedded, dim=1), None, _with_text(visible_Bn, text_BLE))

    def predict(self, x_BTD: Tensor, codes_Bn: Tensor) -> Tensor:
        """Logits [B, n, K] from what leaves the last block, given text and all codes but the last.

        The last text position predicts code 0, those before it nothing.
        """
        x_BnD = x_BTD[:, self.shape.text_length - 1 :]
        return self._predict(x_BnD, codes_Bn[:, : -self.shape.codes_per_frame])

    def predict_last_frame(self, x_BTD: Tensor, codes_Bn: Tensor) -> Tensor:
        """The last part of `predict`: logits [B, m, K] of the m codes of the last frame."""
        m = self.shape.codes_per_frame
        return self._predict(x_BTD[:, -m:], codes_Bn[:, -2 * m : -m])

    def _run_blocks(
        self, x_BTD: Tensor, cache: Cache | None = None, visible_BT: Tensor | None = None
    ) -> list[Tensor]:
        start = cache.filled if cache is not None else 0
        span = slice(start, start + x_BTD.shape[1])
        turns = Turns(self.here_2TP[:, span], self.there_2TP[:, span])
        if visible_BT is None and start and x_BTD.shape[1] > 1:
            visible_BT = x_BTD.new_ones(len(x_BTD), span.stop, dtype=torch.bool)
        mask = None if visible_BT is None else _causal_and_visible(visible_BT, start)
        stream = [x_BTD]
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, turns, cache, mask, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, turns, cache, mask)
            stream.append(x_BTD)
        if cache is not None:
            cache.filled = span.stop
        return stream

    def _predict(
        self, x_BnD: Tensor, earlier_Bm: Tensor, direction_KD: Tensor | None = None
    ) -> Tensor:
        """Logits [B, n, K]; the last m <= n places know the code one frame earlier."""
        x_BnD = self.norm(x_BnD)
        logits_BnK = F.linear(x_BnD, self._directions() if direction_KD is None else direction_KD)
        unknown = x_BnD.shape[1] - earlier_Bm.shape[1]
        gate_Bm1 = F.softplus(self.copy_gate(x_BnD[:, unknown:]))
        # Nothing is added to code 0 where there is no frame before: one write in place, no copies.
        add_Bn1, code_Bn1 = (
            F.pad(t, (0, 0, unknown, 0)) for t in (gate_Bm1, earlier_Bm[..., None])
        )
        return logits_BnK.scatter_add_(2, code_Bn1, add_Bn1.to(logits_BnK.dtype))

    def loss(self, codes_BN: Tensor, text_BLE: Tensor) -> Tensor:
        """Cross entropy [B, N] of every code, in nats."""
        logits_BNK = self(codes_BN, text_BLE).float()
        # Flat, because across rows of a transposed view the CPU's softmax is three times slower.
        loss = F.cross_entropy(logits_BNK.flatten(0, 1), codes_BN.flatten(), reduction="none")
        return loss.view_as(codes_BN)

    @torch.no_grad()
    def extend(
        self,
        codes_Bn: Tensor,
        cache: Cache,
        text_BLE: Tensor | None = None,
        visible_Bn: Tensor | None = None,
        extra_BnD: Tensor | None = None,
    ) -> Tensor:
        """Take in codes after those in the cache; logits [B, K] of the code that comes next.

        The first call brings the caption, and may bring no codes. Where it hides some of them
        (`visible_Bn`, see `hidden`), each later call passes the mask of its codes too.
        """
        tables = cache.tables = cache.tables or self._tables()
        x_BtD = self.embed_codes(codes_Bn, cache.codes_Bn.shape[1], extra_BnD, tables)
        if text_BLE is not None:
            x_BtD = torch.cat([self.embed_text(text_BLE), x_BtD], dim=1)
            cache.visible_BT = _with_text(visible_Bn, text_BLE)
        elif visible_Bn is not None and cache.visible_BT is not None:
            cache.visible_BT = torch.cat([cache.visible_BT, visible_Bn], dim=1)
        cache.codes_Bn = torch.cat([cache.codes_Bn, codes_Bn], dim=1)
        x_B1D = self._run_blocks(x_BtD, cache, cache.visible_BT)[-1][:, -1:]
        place = cache.codes_Bn.shape[1] - self.shape.codes_per_frame
        earlier_Bm = cache.codes_Bn[:, place : place + 1] if place >= 0 else codes_Bn[:, :0]
        return self._predict(x_B1D, earlier_Bm, tables.direction_KD)[:, 0]


def _with_text(visible_Bn: Tensor | None, text_BLE: Tensor) -> Tensor | None:
    """Mask of text and codes that may be attended to: the text whole."""
    if visible_Bn is None:
        return None
    ones = visible_Bn.new_ones(len(visible_Bn), text_BLE.shape[1])
    return torch.cat([ones, visible_Bn], dim=1)


def _causal_and_visible(visible_BT: Tensor, start: int) -> Tensor:
    """Mask, bool [B, 1, t, T], of the positions that those from `start` on attend to."""
    total = visible_BT.shape[1]
    here = torch.arange(start, total, device=visible_BT.device)[:, None]
    causal_tT = torch.arange(total, device=visible_BT.device) <= here
    return causal_tT & visible_BT[:, None, None]


def _angles(place_N4: Tensor, pairs: int) -> Tensor:
    # Each axis turns a quarter of the pairs, by 2 down to 0.2 radians a step: the fastest tell
    # neighbours apart, the slowest still differ from one end of a grid of 16 to the other.
    turn_p = 2.0 * torch.logspace(0, -1, pairs // 4)
    return (place_N4[:, :, None] * turn_p).flatten(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        _start_as_copy(module)
    elif isinstance(module, Block):
        nn.init.zeros_(module.down.weight)
    elif isinstance(module, GPT):
        nn.init.constant_(module.norm.weight, 0.7)  # the spread of an untrained model's logits
        nn.init.zeros_(module.copy_gate.weight)
        nn.init.constant_(module.copy_gate.bias, 3.0)  # softplus(3) = 3.05: 21 times the odds


@torch.no_grad()
def _start_as_copy(attention: Attention) -> None:
    """Start as "repeat what lies near the place to be predicted", which video mostly does.

    The equal biases make every query match keys of its own place, whatever the content; the output
    undoes the value projection. From random weights a tiny model spends 200 steps at the unigram
    loss before it finds this, with them it passes copy-last-frame within 50.
    """
    nn.init.constant_(attention.q_norm.bias, 2.0)
    nn.init.constant_(attention.k_norm.bias, 2.0)
    value_DD = attention.qkv.weight[-attention.qkv.in_features :]
    nn.init.orthogonal_(value_DD)
    attention.out.weight.copy_(0.5 * value_DD.T)
