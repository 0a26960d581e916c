"""A small Llama for serving, in plain torch: what the embedded base is, without the libraries that can open any model.

Importing transformers and PEFT costs 5 s of processor time, a verdict of a flow 5 ms. The module takes the arguments of transformers'
own forward that the engine uses and gives the same numbers within rounding (Touvron et al. 2023; rotary positions: Su et al. 2021).
Models of any other kind or of more than `LARGEST` bytes are left to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

LARGEST = 64 << 20
"""Bytes of linear weights in float32 up to which a model is served this way: each resident adapter has its own merged copy of them."""
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_MOST_POSITIONS = 1 << 16
_ROWS = 512
"""Rows of a product that weights are laid out for; any number works."""
_PARTS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
"""Linear layers of a block, by the module that holds them; q, k and v are computed as one product, gate and up as another."""


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """Sizes of a Llama and its two constants, under transformers' names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LlamaSizes | None:
        """The sizes in a checkpoint's configuration; None where it asks for anything that is not computed here."""
        rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
        plain = (
            config.get("model_type") == "llama"
            and config.get("hidden_act", "silu") == "silu"
            and not any(config.get(key) for key in ("attention_bias", "mlp_bias", "rope_scaling", "quantization_config", "sliding_window"))
            and isinstance(rope, Mapping)
            and rope.get("rope_type", "default") == "default"
            and not rope.keys() - {"rope_theta", "rope_type"}
        )
        sizes = [config.get(key) for key in _SIZES]
        if not plain or not all(type(size) is int and 0 < size < 1 << 24 for size in sizes):
            return None
        vocabulary, width, inner, layers, heads, positions = (int(size) for size in sizes if size is not None)
        groups, head = config.get("num_key_value_heads") or heads, config.get("head_dim") or width // heads
        constants = [
            float(c) for c in (config.get("rms_norm_eps", 1e-6), rope.get("rope_theta")) if isinstance(c, int | float) and 0 < c < 1e9
        ]
        if type(groups) is not int or type(head) is not int or len(constants) != 2:
            return None
        fits = 0 < groups <= heads and heads % groups == 0 and 0 < head <= width and head % 2 == 0 and positions <= _MOST_POSITIONS
        tied = bool(config.get("tie_word_embeddings", False))
        own = cls(vocabulary, width, inner, layers, heads, groups, head, positions, constants[0], constants[1], tied)
        return own if fits and layers <= 256 and own.linear_bytes <= LARGEST else None

    @property
    def linear_bytes(self) -> int:
        """Bytes of the blocks' linear weights in float32."""
        return 4 * self.num_hidden_layers * sum(high * wide for high, wide in self._linear().values())

    def _linear(self) -> dict[str, tuple[int, int]]:
        width, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        shapes = ((queries, width), (keys, width), (keys, width), (width, queries), (inner, width), (inner, width), (width, inner))
        names = (f"{part}.{name}" for part, members in _PARTS.items() for name in members)
        return dict(zip(names, shapes, strict=True))

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name -> (out, in) features of every linear layer of the blocks, as transformers names them."""
        return {f"model.layers.{k}.{name}": shape for k in range(self.num_hidden_layers) for name, shape in self._linear().items()}

    def module_names(self) -> list[str]:
        """Names of all modules of transformers' model of these sizes, which an adapter's configuration may select by their ends."""
        blocks = [f"model.layers.{k}" for k in range(self.num_hidden_layers)]
        inner = ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm", *self._linear())
        ends = ("model", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
        return [*ends, *blocks, *(f"{block}.{name}" for block in blocks for name in inner)]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor in a checkpoint."""
        norms = ("input_layernorm", "post_attention_layernorm")
        blocks = range(self.num_hidden_layers)
        return {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
            **{f"model.layers.{k}.{norm}.weight": (self.hidden_size,) for k in blocks for norm in norms},
            **{f"{name}.weight": shape for name, shape in self.linear_layers().items()},
            **({} if self.tied else {"lm_head.weight": (self.vocab_size, self.hidden_size)}),
        }

    def get_text_config(self) -> LlamaSizes:
        """Itself: as transformers' configurations answer, some of which hold more than text."""
        return self


class Output(NamedTuple):
    """`logits` [rows, tokens, vocabulary], and where asked for the hidden states [rows, tokens, width]: embeddings, then after each block,
    the last one behind the final norm."""

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass(slots=True)
class LayerCache:
    """Keys and values [rows, heads, tokens, head width] of a block."""

    keys: torch.Tensor
    values: torch.Tensor
    is_sliding: bool = False


class KeyValues:
    """What a forward leaves for the next: keys and values by block, under the names of transformers' caches."""

    def __init__(self) -> None:
        self.layers: list[LayerCache] = []

    def get_seq_length(self) -> int:
        """Tokens held."""
        return int(self.layers[0].keys.shape[2]) if self.layers else 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of a block, these behind those held."""
        if block == len(self.layers):
            self.layers.append(LayerCache(keys, values))
        else:
            layer = self.layers[block]
            layer.keys, layer.values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        return self.layers[block].keys, self.layers[block].values

    def batch(self, rows: int) -> KeyValues:
        """The same keys and values for so many rows, without a copy: what is added to either goes into tensors of its own."""
        other = KeyValues()
        other.layers = [LayerCache(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)) for layer in self.layers]
        return other

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys.repeat_interleave(repeats, 0), layer.values.repeat_interleave(repeats, 0)

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """These rows alone."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class _Norm(nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019)."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight, requires_grad=False), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class _Product:
    """A linear layer with its weight [out, in] laid out for oneDNN, where torch has it.

    MKL takes the narrower vectors of AVX2 on processors that are not Intel's: 97 GFLOP/s in float32 on one Zen 5 core where oneDNN does
    200, both at any number of rows from 128 on. With `kept` the weight can be read again. With `short` factors and results are rounded to
    bfloat16, sums are not: 440 GFLOP/s there, where the processor has instructions for it; elsewhere it changes nothing.
    """

    def __init__(self, weight: torch.Tensor, *, kept: bool = True, short: bool = False) -> None:
        packed = weight.device.type == "cpu" and weight.dtype == torch.float32 and _has_onednn()
        self.short = packed and short and has_short_products()
        self.weight = weight if kept or not packed else None
        laid = (weight.bfloat16() if self.short else weight).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(laid, _ROWS) if packed else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x W'."""
        if self.packed is None:
            return self._plain(x)
        return self._laid(x.bfloat16()).float() if self.short else self._laid(x)

    def _laid(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return out

    def added(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """to + x W'."""
        if self.packed is None:
            return to + self._plain(x)
        if self.short:
            return to + self._laid(x.bfloat16())
        total: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, to, self.packed, None, "add")
        return total

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        return linear(x, self.weight)


@cache
def _has_onednn() -> bool:
    """Whether torch was built with oneDNN and gives its products by the names that its own compiler uses."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return torch._C._has_mkldnn and all(hasattr(torch.ops.mkldnn, name) for name in names)


@cache
def has_short_products() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class _Block(nn.Module):
    """Attention and gated feed-forward."""

    def __init__(self, sizes: LlamaSizes, weights: Mapping[str, torch.Tensor], block: int, *, kept: bool, short: bool) -> None:
        super().__init__()
        self.sizes, self.block = sizes, block

        def product(*names: str) -> _Product:
            parts = [weights[f"model.layers.{block}.{name}.weight"].detach() for name in names]
            return _Product(parts[0] if len(parts) == 1 else torch.cat(parts), kept=kept, short=short)

        def norm(name: str) -> _Norm:
            return _Norm(weights[f"model.layers.{block}.{name}.weight"], sizes.rms_norm_eps)

        self.before_attention, self.before_feed = norm("input_layernorm"), norm("post_attention_layernorm")
        self.qkv = product("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = product("self_attn.o_proj")
        self.gate_up = product("mlp.gate_proj", "mlp.up_proj")
        self.down = product("mlp.down_proj")

    def forward(
        self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor | None, cache: KeyValues | None
    ) -> torch.Tensor:
        """`turns` are cosines and sines [rows or 1, tokens, 1, head width] of the positions."""
        sizes, (rows, tokens, _) = self.sizes, x.shape
        heads, groups = sizes.num_attention_heads, sizes.num_key_value_heads
        parts = self.qkv(self.before_attention(x)).view(rows, tokens, heads + 2 * groups, sizes.head_dim)
        turned, values = _turn(parts[:, :, : heads + groups], turns).transpose(1, 2), parts[:, :, heads + groups :].transpose(1, 2)
        queries, keys = turned[:, :heads], turned[:, heads:]
        if cache is not None:
            keys, values = cache.update(keys, values, self.block)
        if groups < heads:
            keys, values = keys.repeat_interleave(heads // groups, 1), values.repeat_interleave(heads // groups, 1)
        seen = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None and tokens > 1)
        x = self.out.added(seen.transpose(1, 2).reshape(rows, tokens, -1), x)
        gate, up = self.gate_up(self.before_feed(x)).chunk(2, -1)
        return self.down.added(silu(gate) * up, x)

    def weights(self) -> dict[str, torch.Tensor]:
        """Its linear weights under transformers' names, of a block that keeps them."""
        sizes = self.sizes
        queries, keys = sizes.num_attention_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
        qkv, out, gate_up, down = (product.weight for product in (self.qkv, self.out, self.gate_up, self.down))
        assert qkv is not None
        assert gate_up is not None
        named = {"self_attn": (*torch.split(qkv, [queries, keys, keys]), out), "mlp": (*gate_up.chunk(2), down)}
        place = f"model.layers.{self.block}"
        pairs = ((f"{place}.{part}.{name}.weight", value) for part in _PARTS for name, value in zip(_PARTS[part], named[part], strict=True))
        return {name: value for name, value in pairs if value is not None}


def _turn(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary positions: each pair (i, i + half) of a head's values turned by its position's angle."""
    first, second = x.chunk(2, -1)
    return x * turns[0] + torch.cat([-second, first], -1) * turns[1]


class Llama(nn.Module):
    """A causal language model of `sizes` with the tensors of a checkpoint, on the CPU for good.

    Embeddings, norms and output matrix are shared with the tensors given. With `kept` the linear weights can be read again, to merge
    adapters into them; with `short` products are of bfloat16 where the processor is faster at it.
    """

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, sizes: LlamaSizes, weights: Mapping[str, torch.Tensor], *, kept: bool = True, short: bool = False) -> None:
        super().__init__()
        self.config = sizes
        self.embed = nn.Embedding(sizes.vocab_size, sizes.hidden_size, _weight=weights["model.embed_tokens.weight"], _freeze=True)
        self.blocks = nn.ModuleList(_Block(sizes, weights, k, kept=kept, short=short) for k in range(sizes.num_hidden_layers))
        self.norm = _Norm(weights["model.norm.weight"], sizes.rms_norm_eps)
        self.head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False, device="meta")
        self.head.weight = self.embed.weight if sizes.tied else nn.Parameter(weights["lm_head.weight"], requires_grad=False)
        steps = torch.arange(0, sizes.head_dim, 2, dtype=torch.float) / sizes.head_dim
        angles = torch.arange(sizes.max_position_embeddings)[:, None].float() * (1.0 / sizes.rope_theta**steps)
        angles = torch.cat([angles, angles], 1)
        self.register_buffer("cosines", angles.cos().to(self.dtype), persistent=False)
        self.register_buffer("sines", angles.sin().to(self.dtype), persistent=False)
        self.eval()

    @classmethod
    def of(cls, model: Any) -> Llama | None:
        """A transformers model as this one, where it is a Llama of plain linear layers; None else. Itself where it is one already."""
        if isinstance(model, cls):
            return model
        config = getattr(model, "config", None)
        sizes = LlamaSizes.of(config.to_dict()) if type(model).__name__ == "LlamaForCausalLM" and config is not None else None
        if sizes is None:
            return None
        weights = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
        if sizes.tied:
            weights.pop("lm_head.weight", None)
        return cls(sizes, weights) if {name: tuple(value.shape) for name, value in weights.items()} == sizes.tensors() else None

    @property
    def layers(self) -> tuple[_Block, ...]:
        """The blocks."""
        return tuple(self.blocks)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        kind: torch.dtype = self.embed.weight.dtype
        return kind

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token vectors."""
        table: nn.Embedding = self.embed
        return table

    def get_output_embeddings(self) -> nn.Linear:
        """The output matrix."""
        return self.head

    def linear_weights(self) -> dict[str, torch.Tensor]:
        """The blocks' linear weights [out, in] under transformers' names."""
        return {name: value for block in self.layers for name, value in block.weights().items()}

    def changed(self, linears: Mapping[str, torch.Tensor], *, short: bool = False) -> Llama:
        """The same model with some linear weights replaced; embeddings, norms and output matrix are shared. `short`: see the class."""
        norms: dict[str, torch.Tensor] = {}
        for k, block in enumerate(self.layers):
            norms[f"model.layers.{k}.input_layernorm.weight"] = block.before_attention.weight
            norms[f"model.layers.{k}.post_attention_layernorm.weight"] = block.before_feed.weight
        ends = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight, "lm_head.weight": self.head.weight}
        return type(self)(self.config, {**ends, **norms, **self.linear_weights(), **linears}, kept=False, short=short)

    def new_cache(self) -> KeyValues:
        """An empty cache for `past_key_values`."""
        return KeyValues()

    def forward(
        self,
        input_ids: torch.Tensor,
        *,
        past_key_values: KeyValues | None = None,
        use_cache: bool = False,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
    ) -> Output:
        """As transformers' models are called. `input_ids` [rows, tokens], padded on the right or covered by a mask [rows or 1, 1, tokens,
        held + tokens], boolean or added to the scores; `logits_to_keep` 0 multiplies every position with the output matrix."""
        cache = past_key_values if use_cache else None
        held, tokens = cache.get_seq_length() if cache is not None else 0, input_ids.shape[1]
        if position_ids is None:
            turns = self.cosines[None, held : held + tokens, None], self.sines[None, held : held + tokens, None]
        else:
            turns = self.cosines[position_ids][:, :, None], self.sines[position_ids][:, :, None]
        mask = attention_mask
        if mask is None and held and tokens > 1:
            mask = torch.ones(tokens, held + tokens, dtype=torch.bool, device=input_ids.device).tril(held)
        x = self.embed(input_ids)
        states = [x]
        for block in self.blocks:
            x = block(x, turns, mask, cache)
            states.append(x)
        states[-1] = x = self.norm(x)
        logits = self.head(x[:, -logits_to_keep:] if logits_to_keep else x)
        return Output(logits, tuple(states) if output_hidden_states else None)
