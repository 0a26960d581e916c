"""The answer set as a trie of token ids: a label's probability is a product over its branching nodes only.

At a node with one child nothing is asked of the model, so the loss teaches exactly what scoring will read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trafficllm.core.errors import ArtifactError

Choice = tuple[int, tuple[int, ...], int]
"""(position in the answer, child ids there, which child the label takes)."""


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """Token paths of a closed label set.

    `paths` are the labels' ids, a label that begins another one ended by `eos`; `nodes` maps a prefix to its child ids, in
    the order in which the labels name them.
    """

    labels: tuple[str, ...]
    paths: tuple[tuple[int, ...], ...]
    nodes: dict[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, labels: Sequence[str], ids: Sequence[Sequence[int]], eos: int) -> LabelTrie:
        """Build from each label's ids; ArtifactError where two labels share theirs or one has none.

        >>> LabelTrie.of(["a", "ab"], [[7], [7, 8]], eos=0).paths
        ((7, 0), (7, 8))
        """
        raw = [tuple(path) for path in ids]
        if len(set(raw)) < len(raw) or not all(raw):
            raise ArtifactError(
                "artifact.labels",
                "two labels have the same tokens, or one has none",
                input=", ".join(labels),
                hint="rename the labels, or use another base",
            )
        inner = {path[:end] for path in raw for end in range(1, len(path))}
        paths = tuple((*path, eos) if path in inner else path for path in raw)
        nodes: dict[tuple[int, ...], dict[int, None]] = {}
        for path in paths:
            for end, token in enumerate(path):
                nodes.setdefault(path[:end], {})[token] = None
        return cls(tuple(labels), paths, {prefix: tuple(children) for prefix, children in nodes.items()})

    def children(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """Ids that may follow a prefix; empty after a whole label."""
        return self.nodes.get(tuple(prefix), ())

    def choices(self, label: int) -> list[Choice]:
        """The branching nodes on a label's path."""
        path = self.paths[label]
        branches = []
        for end, token in enumerate(path):
            children = self.nodes[path[:end]]
            if len(children) > 1:
                branches.append((end, children, children.index(token)))
        return branches

    def forced(self, prefix: Sequence[int]) -> tuple[int, ...]:
        """The prefix followed through nodes with one child, to a branching node or a label's end."""
        at = tuple(prefix)
        while len(children := self.children(at)) == 1:
            at = (*at, children[0])
        return at
