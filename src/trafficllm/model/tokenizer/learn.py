"""Learn traffic tokens: which runs of codec units deserve an entry of their own in a base's vocabulary.

A token is a concatenation of units and a record is cut by longest match, as the tokenizers library does with added tokens.
Candidates come from byte-pair merges on a bounded sample; then the vocabulary is pruned greedily under longest match, which took
1-4 % fewer tokens than the merges it started from. All single units stay, so every record is covered exactly.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trafficllm.core.errors import UsageError
from trafficllm.records.codec.units import UNIT_NAMES, UNITS, is_byte

SAMPLE_UNITS = 4_000_000
"""Units held while learning, whatever the corpus' size (bench/bench_tokenizer.py draws the curve): 25,000 to 35,000 records."""
MAX_TOKEN_UNITS = 24
MIN_COUNT = 4
SHRINK = 0.7
_STARTS = ("dir:", "payload:", "fact:", "service:", "mask", "end", "kind:", "iat:", "total:", "cumul:", "moment:")


STARTS = frozenset(char for char, name in UNIT_NAMES.items() if not is_byte(char) and name.startswith(_STARTS))
"""Units that begin a word: no token holds one but in first place, so a cut never depends on what came before."""


def words(units: str) -> Iterator[str]:
    """Cut a unit string before every start unit; `"".join(words(x)) == x`.

    >>> from trafficllm.records.codec.units import unit
    >>> [len(word) for word in words(unit("dir:orig") + unit("size:0") + unit("dir:resp"))]
    [2, 1]
    """
    begin = 0
    for place, char in enumerate(units):
        if char in STARTS and place > begin:
            yield units[begin:place]
            begin = place
    if begin < len(units):
        yield units[begin:]


class Matcher:
    """Longest match over a fixed vocabulary: the definition that every tokenizer of ours is checked against."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = frozenset(tokens)
        prefixes: set[str] = set()
        for token in self.tokens:
            prefixes.update(token[:end] for end in range(1, len(token)))
        self._longer = frozenset(prefixes)

    def segment(self, units: str) -> list[str]:
        """Tokens of a unit string; KeyError where a character is no unit of the vocabulary."""
        pieces: list[str] = []
        at = 0
        while at < len(units):
            best, end = 0, at + 1
            while end <= len(units):
                piece = units[at:end]
                if piece in self.tokens:
                    best = end
                if piece not in self._longer:
                    break
                end += 1
            if not best:
                raise KeyError(units[at])
            pieces.append(units[at:best])
            at = best
        return pieces


def _sample(strings: Iterable[str], limit: int, seed: int) -> Counter[str]:
    """Word counts of a random sample of the records that never holds more than `limit` units.

    Each record draws a number; the largest numbers leave when room is short, so every record had the same chance.
    """
    chooser = random.Random(seed)
    sample: list[tuple[float, int, str]] = []
    held = 0
    bar = 1.0
    for place, text in enumerate(strings):
        draw = chooser.random()
        if draw >= bar:
            continue
        heapq.heappush(sample, (-draw, place, text))
        held += len(text)
        while held > limit:
            gone = heapq.heappop(sample)
            held -= len(gone[2])
            bar = -gone[0]
    counts: Counter[str] = Counter()
    while sample:
        counts.update(words(sample.pop()[2]))
    return counts


def _candidates(counts: Mapping[str, int], size: int) -> list[str]:
    """Byte-pair merges over the words, four times as many as are wanted."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=4 * size + len(UNITS),
        min_frequency=MIN_COUNT,
        initial_alphabet=list(UNITS),
        max_token_length=MAX_TOKEN_UNITS,
        show_progress=False,
    )
    # Repeats count towards a merge: a word is given as often as it occurs, up to 64 times, which ranks alike.
    ordered = sorted(counts.items())
    tokenizer.train_from_iterator((word for word, n in ordered for _ in range(min(n, 64))), trainer=trainer)
    vocabulary = tokenizer.get_vocab()
    return [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if len(token) > 1]


def _worth(counts: Mapping[str, int], tokens: Sequence[str]) -> Counter[str]:
    """Units saved by each token under longest match: uses x (length - 1)."""
    matcher = Matcher([*UNITS, *tokens])
    saved: Counter[str] = Counter()
    for word, times in counts.items():
        for token in matcher.segment(word):
            if len(token) > 1:
                saved[token] += times * (len(token) - 1)
    return saved


def learn(unit_strings: Iterable[str], size: int, *, seed: int = 0, sample_units: int = SAMPLE_UNITS) -> list[str]:
    """Learn `size` tokens (the single units included) from records' unit strings, in constant memory.

    The list begins with all units; learnt tokens follow in order of worth. Fewer are returned where the records repeat too little.

    >>> from trafficllm.records.codec.units import unit
    >>> len(learn([unit("dir:orig") + unit("size:0")] * 9, len(UNITS) + 1)) - len(UNITS)
    1
    """
    if size < len(UNITS):
        raise UsageError(
            "usage.vocabulary",
            f"a traffic vocabulary holds all {len(UNITS)} units, {size} entries are too few",
            hint=f"ask for {len(UNITS)} or more; 4096 is the default",
        )
    counts = Counter({word: n for word, n in _sample(unit_strings, sample_units, seed).items() if set(word) <= set(UNITS)})
    room = size - len(UNITS)
    tokens = _candidates(counts, size) if room and counts else []
    while True:
        saved = _worth(counts, tokens)
        target = max(room, int(len(tokens) * SHRINK))
        ranked = sorted(saved, key=lambda token: (-saved[token], token))[:target]
        done = len(tokens) <= room or target == room
        tokens = ranked
        if done:
            return [*UNITS, *tokens]
