"""The labels' tree: what is computed, and that it is a distribution."""

from __future__ import annotations

import numpy as np

from trafficllm.infer.engine.label_tree import LabelTree
from trafficllm.infer.engine.prefix import shared_prefix
from trafficllm.model.tuning.trie import LabelTrie


def _tree(*paths: tuple[int, ...]) -> LabelTree:
    return LabelTree.of(LabelTrie.of([str(path) for path in paths], paths, eos=0))


def test_only_branching_nodes_are_computed() -> None:
    tree = _tree((5, 1, 9, 4), (5, 2, 7), (5, 2, 8), (6, 6, 6))
    assert tree.tokens == (5, 2)
    assert tree.parent == (-1, 0)
    assert tree.choices == ((-1, (5, 6)), (0, (1, 2)), (1, (7, 8)))
    assert tree.depth.tolist() == [1, 2]
    assert tree.sees.tolist() == [[True, False], [True, True]]


def test_a_label_that_begins_another_ends_with_eos() -> None:
    tree = _tree((6,), (6, 9))
    assert tree.choices == ((0, (0, 9)),)


def test_probabilities_sum_to_one_for_any_labels() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        paths = {tuple(rng.integers(1, 4, rng.integers(1, 6)).tolist()) for _ in range(rng.integers(1, 40))}
        tree = _tree(*sorted(paths))
        log_p = tree.log_probabilities(rng.normal(size=(3, tree.columns)) * 20)
        assert np.abs(np.exp(log_p).sum(axis=1) - 1).max() < 1e-9


def test_shared_prefix_leaves_each_prompt_a_token() -> None:
    head = list(range(20))
    assert shared_prefix([[*head, 1], [*head, 2, 3]]) == tuple(head)
    assert shared_prefix([head, [*head, 2]]) == tuple(head[:-1])
    assert shared_prefix([[1, 2], [1, 3]]) == ()
    assert shared_prefix([]) == ()
