"""The small Llama on prompts as a tree: what begins alike is computed once, nothing is padded, and products have many rows.

`Paths` lists the tree's nodes in depth-first order; a prompt is a path from the top. What a causal model computes at a token depends on
the tokens before it alone, so that all prompts that share a beginning share its states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trafficllm.model.base.llama import Llama
from trafficllm.model.kernels.native import Native, fits, native
from trafficllm.model.tuning.collate import shared


@dataclass(frozen=True, slots=True)
class Paths:
    """Nodes in depth-first order: `tokens` int64 [nodes] and `depths` int32 [nodes], how many nodes lie above each.

    `asked` int64 [rows, k] are the nodes whose states each prompt asks for, its last one first; `path` int32 and `ends` int32 [rows + 1]
    say over which nodes its states are pooled: `path[ends[r]:ends[r + 1]]`.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    asked: torch.Tensor
    path: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], behind: Sequence[tuple[int, int]] = (), first: int = 0) -> Paths:
        """The tree of prompts, none empty, in the given order: sorted ones share most. Behind each lie further (token, depth below the
        prompt's last token), in depth-first order; states are pooled from position `first` on, of a shorter prompt at its last token.

        >>> Paths.of([[5, 6], [5, 7, 8]]).depths.tolist()
        [0, 1, 1, 2]
        """
        tokens: list[int] = []
        depths: list[int] = []
        path: list[int] = []
        ends, asked, stack = [0], [], list[int]()
        last: Sequence[int] = ()
        for ids in prompts:
            same = shared(last, ids)
            del stack[same:]
            stack += range(len(tokens), len(tokens) + len(ids) - same)
            tokens += ids[same:]
            depths += range(same, len(ids))
            path += stack[min(first, len(ids) - 1) :]
            ends.append(len(path))
            asked.append([stack[-1], *range(len(tokens), len(tokens) + len(behind))])
            tokens += [token for token, _ in behind]
            depths += [len(ids) - 1 + below for _, below in behind]
            last = ids
        narrow = [torch.tensor(values, dtype=torch.int32) for values in (depths, path, ends)]
        return cls(torch.tensor(tokens), narrow[0], torch.tensor(asked), narrow[1], narrow[2])


def parts(prompts: Sequence[Sequence[int]], behind: int, most: int) -> Iterator[list[int]]:
    """Indices of the prompts, sorted, in batches of at most `most` nodes, or of one prompt; `behind` nodes lie behind each."""
    batch: list[int] = []
    nodes = 0
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    for place, i in enumerate(order):
        more = len(prompts[i]) + behind - (shared(prompts[order[place - 1]], prompts[i]) if batch else 0)
        if batch and nodes + more > most:
            yield batch
            batch, nodes, more = [], 0, len(prompts[i]) + behind
        batch.append(i)
        nodes += more
    if batch:
        yield batch


def functions(model: object) -> Native | None:
    """What computes a model's paths; None for models that are not a small Llama on the CPU, or of other sizes."""
    if not isinstance(model, Llama) or model.dtype != torch.float32 or model.embed.weight.device.type != "cpu":
        return None
    sizes = model.config
    return native(sizes.head_dim) if fits(sizes.head_dim, (sizes.hidden_size, sizes.intermediate_size)) else None


def hidden_states(model: Llama, paths: Paths, using: Native) -> Iterator[torch.Tensor]:
    """Hidden states [nodes, width]: embeddings, then after each block, the last ones behind the final norm. In inference mode."""
    turns, sizes = (model.cosines, model.sines), model.config
    heads, groups = sizes.num_attention_heads, sizes.num_key_value_heads
    different, rows = torch.unique(paths.tokens, return_inverse=True)  # what the first block reads depends on the token alone
    rows, source = rows.int(), model.embed(different)
    x = model.embed(paths.tokens)
    for block in model.layers:
        yield x
        attention, feed = block.before_attention, block.before_feed
        qkv = block.qkv(using.norm(source, attention.weight, attention.eps))
        x = block.out.added(using.attend(qkv, rows, paths.depths, turns, heads=heads, groups=groups), x)
        source = x = block.down.added(using.gate(block.gate_up(using.norm(x, feed.weight, feed.eps))), x)
        rows = torch.arange(len(x), dtype=torch.int32)
    yield using.norm(x, model.norm.weight, model.norm.eps)
