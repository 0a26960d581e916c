"""The labels' token sequences as one tree, so that a closed set is scored with one prefill and one short forward.

P(label) is the product, over the branching nodes on its path, of the softmax restricted to that node's children.
A node with one child has probability 1 and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trafficllm.core.types import F64
from trafficllm.model.tuning.trie import LabelTrie


@dataclass(frozen=True)
class LabelTree:
    """What to compute for a label set.

    `tokens` are the tree's inner tokens in depth-first order, those on the way to a branching node only; `parent[k]`
    their parents (-1: the prompt's last token); `choices` pairs (index into tokens or -1, child ids); `steps[label]`
    the flat columns whose log-probabilities add up to the label's.
    """

    tokens: tuple[int, ...]
    parent: tuple[int, ...]
    choices: tuple[tuple[int, tuple[int, ...]], ...]
    steps: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, trie: LabelTrie) -> LabelTree:
        """The tree of a label trie, which tuning reads too.

        >>> tree = LabelTree.of(LabelTrie.of(["a", "b", "c"], [[5, 1], [5, 2], [6]], eos=0))
        >>> tree.tokens, tree.choices
        ((5,), ((-1, (5, 6)), (0, (1, 2))))
        """
        builder = _Builder(trie.paths)
        builder.visit((), list(range(len(trie.paths))), -1)
        steps = tuple(tuple(columns) for columns in builder.steps)
        return cls(tuple(builder.tokens), tuple(builder.parent), tuple(builder.choices), steps)

    @cached_property
    def depth(self) -> npt.NDArray[np.int64]:
        """Position of each tree token after the prompt's last one, from 1."""
        out = np.zeros(len(self.tokens), np.int64)
        for k, up in enumerate(self.parent):
            out[k] = 1 if up < 0 else out[up] + 1
        return out

    @cached_property
    def sees(self) -> npt.NDArray[np.bool_]:
        """[tokens, tokens]: whether row may attend to column: itself and its ancestors."""
        out = np.eye(len(self.tokens), dtype=bool)
        for k, up in enumerate(self.parent):
            if up >= 0:
                out[k] |= out[up]
        return out

    def path(self, node: int) -> tuple[int, ...]:
        """Tokens from the prompt's end to an inner token, that one included."""
        above = self.path(self.parent[node]) if self.parent[node] >= 0 else ()
        return (*above, self.tokens[node])

    @property
    def columns(self) -> int:
        """Number of flat columns: children of all choices."""
        return sum(len(children) for _, children in self.choices)

    def log_probabilities(self, flat: F64) -> F64:
        """Label log-probabilities [n, labels] from the raw logits of all children [n, columns]."""
        log_p = np.empty_like(flat)
        at = 0
        for _, children in self.choices:
            part = flat[:, at : at + len(children)]
            top = part.max(axis=1, keepdims=True)
            norm = top + np.log(np.exp(part - top).sum(axis=1, keepdims=True))
            log_p[:, at : at + len(children)] = part - norm
            at += len(children)
        return log_p @ self._membership

    @cached_property
    def _membership(self) -> F64:
        out = np.zeros((self.columns, len(self.steps)))
        for label, columns in enumerate(self.steps):
            out[list(columns), label] = 1.0
        return out


class _Builder:
    def __init__(self, paths: Sequence[tuple[int, ...]]) -> None:
        self.paths = paths
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.choices: list[tuple[int, tuple[int, ...]]] = []
        self.steps: list[list[int]] = [[] for _ in paths]
        self._columns = 0

    def visit(self, prefix: tuple[int, ...], members: list[int], node: int) -> None:
        """Walk one node; `members` are the labels below it. Unary chains are kept only above a branch."""
        groups: dict[int, list[int]] = {}
        for i in members:
            groups.setdefault(self.paths[i][len(prefix)], []).append(i)
        if len(groups) > 1:
            self.choices.append((node, tuple(groups)))
            for k, group in enumerate(groups.values()):
                for i in group:
                    self.steps[i].append(self._columns + k)
            self._columns += len(groups)
        for token, group in groups.items():
            if len(group) > 1:
                self.tokens.append(token)
                self.parent.append(node)
                self.visit((*prefix, token), group, len(self.tokens) - 1)
