"""The kept inputs of the fuzzer, and mutations of them: no decoder raises, no span leaves its prefix."""

from __future__ import annotations

import random

import pytest
from facts_fuzz import TARGETS, corpus

_MUTATIONS = 1500


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_kept_inputs_and_their_mutations(target: str) -> None:
    inputs = corpus(target)
    assert len(inputs) >= 8
    run, rng = TARGETS[target], random.Random(18)
    for data in inputs:
        run(data)
    for _ in range(_MUTATIONS):
        data = bytearray(rng.choice(inputs))
        for _ in range(rng.randrange(1, 5)):
            place, value = rng.randrange(len(data)), rng.choice((0, 1, 0x40, 0x80, 0xFF, rng.randrange(256)))
            data[place] = value
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        if rng.random() < 0.2:
            other = rng.choice(inputs)
            data += other[rng.randrange(len(other)) :]
        run(bytes(data))
