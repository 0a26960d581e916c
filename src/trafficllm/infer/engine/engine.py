"""The engine: prompts in, label probabilities out, with many adapters resident on one base.

A batch costs one forward: behind each prompt lie the label tree's inner tokens, under a tree-shaped mask, for labels that first
tokens do not tell apart. Nothing is generated, so nothing can be malformed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from trafficllm.core.calibration import softmax
from trafficllm.core.errors import ArtifactError
from trafficllm.core.types import Prompt, Scores
from trafficllm.infer.engine.answers import Answer, Answers
from trafficllm.infer.engine.forward import batches, forward_at, new_cache, packed
from trafficllm.infer.engine.label_tree import LabelTree
from trafficllm.infer.engine.prefix import PrefixCache, shared_prefix
from trafficllm.infer.engine.resident import Residents, own
from trafficllm.model.adapter.readout import FILE, UMBRELLA, Readout, blended, means, reasons
from trafficllm.model.base.llama import Llama
from trafficllm.model.base.paths import Paths, functions, hidden_states, parts
from trafficllm.model.kernels.native import Native
from trafficllm.model.tuning.collate import padded
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.trie import LabelTrie
from trafficllm.registry import members

if TYPE_CHECKING:
    from trafficllm.infer.engine.forward import Cache
    from trafficllm.model.base.load import Base

BATCH_TOKENS = 512
"""Tokens of a batch, padding included. One core, 2 M parameters, 64 tokens a flow: 256 5.4 ms a flow, 512 4.4, 1024 4.8, 2048 5.9:
larger batches leave the cache."""
DEVICE_TOKENS = 1 << 14
"""The same on an accelerator, which small batches would leave idle."""
LOGIT_VALUES = 1 << 26
"""At most this many logits at once (256 MiB in float32), where a model's head cannot be narrowed to the labels' tokens."""
_MEMBER = "\0"
"""Between an adapter's name and a member's number: it stands in no name."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A closed set of answers, tokenized once: `columns` are the token ids that any choice is between, `choices` the tree's with
    places in `columns` instead of ids."""

    labels: tuple[str, ...]
    tree: LabelTree
    columns: tuple[int, ...]
    choices: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, labels: tuple[str, ...], tree: LabelTree) -> LabelSet:
        """The set of a label tree."""
        columns = tuple(sorted({token for _, children in tree.choices for token in children}))
        place = {token: k for k, token in enumerate(columns)}
        choices = tuple((node, tuple(place[token] for token in children)) for node, children in tree.choices)
        return cls(labels, tree, columns, choices)


@dataclass(frozen=True, slots=True)
class Question:
    """What prompts are asked: the answers to choose from, by which adapter, behind which common beginning, with states pooled from which
    token on (None: not at all), whether the states that a readout reads are wanted, and how often the adapter has changed so far."""

    answer: LabelSet
    adapter: str
    prefix: tuple[int, ...]
    pool_from: int | None
    features: bool
    turn: int


class Engine:
    """One base model with its adapters.

    Up to `remember` answers are kept, and given again to equal prompts. With `products` "bfloat16" the linear layers of adapters on a small
    base multiply in bfloat16, on processors that are faster at it; all else stays float32.

    Safe to share between threads: a lock is held for each batch, in which exactly one adapter is active. The base's own
    model is left as it is (weights are shared, modules are not), so it can be tuned further beside an engine.

    >>> engine = Engine(load_base(default_base()))                 # doctest: +SKIP
    >>> engine.add_adapter("MTD", "registry/MTD/1")                # doctest: +SKIP
    >>> engine.score(prompts, ("Neris", "Zeus"), adapter="MTD")    # doctest: +SKIP
    """

    def __init__(
        self,
        base: Base,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        merge: bool | None = None,
        remember: int = 0,
        products: str = "float32",
    ) -> None:
        self.base = base
        self.device = torch.device(device)
        self.encoder = Encoder(base.tokenizer)
        target = base.model.dtype if dtype == "auto" else getattr(torch, dtype)
        plain = merge is not False and self.device.type == "cpu" and target == base.model.dtype == torch.float32
        small = Llama.of(base.model) if plain else None
        self.model = small if small is not None else own(_general(base), self.device, target)
        self.lock = threading.RLock()
        self.batch_tokens = BATCH_TOKENS if self.device.type == "cpu" else DEVICE_TOKENS
        self._residents = Residents(self.model, merge=merge, short=products == "bfloat16")
        self._prefixes = PrefixCache()
        self._answers = Answers(remember)
        self._changes: dict[str, int] = {}
        self._members: dict[str, tuple[str, ...]] = {}
        self._sets: dict[tuple[str, ...], LabelSet] = {}
        self._readouts: dict[str, Readout] = {}
        self._umbrellas: dict[str, Readout] = {}
        if why := reasons(base.path, self.model):
            raise ArtifactError("artifact.readout", why[0], input=str(base.path), hint="remove the file or export again")
        self._read("", base.path)

    # Adapters

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the resident adapters."""
        return tuple(self._members)

    def members(self, adapter: str) -> tuple[str, ...]:
        """What the members of an adapter are held under, the first one first; itself where it is one alone."""
        return self._members.get(adapter, (adapter,))

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Load a PEFT adapter folder with all its members under a name, replacing what the name stood for.

        Raises ArtifactError with all reasons where one does not fit the base, or members do not answer alike; nothing is unpickled.
        """
        self.add_members(name, members.folders(Path(folder)))

    def add_members(self, name: str, folders: Sequence[Path]) -> None:
        """As `add_adapter`, for several folders whose scores are averaged."""
        from trafficllm.model.adapter.guard import check_adapter

        for folder in folders:
            check_adapter(folder, self.base)
        _check_alike(folders)
        held = tuple(name if k == 0 else f"{name}{_MEMBER}{k + 1}" for k in range(len(folders)))
        with self.lock:
            gone = [other for member, folder in zip(held, folders, strict=True) for other in self._residents.add(member, str(folder))]
            self._forget(name)
            for spare in set(self.members(name)) - set(held):
                self._residents.remove(spare)
            self._members[name] = held
            for member, folder in zip(held, folders, strict=True):
                self._read(member, folder)
            for other in gone:
                self.remove_adapter(other.split(_MEMBER)[0])

    def _read(self, name: str, folder: Path) -> None:
        """Keep the readouts of a checked folder, where it has any: an adapter's, or those of a checkpoint an adapter was merged into."""
        for kept, file in ((self._readouts, FILE), (self._umbrellas, UMBRELLA)):
            readout = Readout.load(folder, file)
            if readout is not None:
                kept[name] = readout.on(self.device)

    def use_readouts(self, name: str, readouts: Sequence[Readout]) -> None:
        """Let a resident adapter answer with other readouts than its folder's, one a member: fitted since."""
        with self.lock:
            self._answers.forget(name)
            self._changes[name] = self._changes.get(name, 0) + 1
            for member, readout in zip(self.members(name), readouts, strict=True):
                self._readouts[member] = readout.on(self.device)

    def remove_adapter(self, name: str) -> None:
        """Drop a resident adapter with its members; unknown names are ignored."""
        with self.lock:
            self._forget(name)
            for member in self._members.pop(name, (name,)):
                self._residents.remove(member)

    def _forget(self, name: str) -> None:
        """Drop what was computed with an adapter, and its readouts."""
        self._answers.forget(name)
        self._changes[name] = self._changes.get(name, 0) + 1
        for member in self.members(name):
            self._prefixes.forget(member)
            self._readouts.pop(member, None)
            self._umbrellas.pop(member, None)

    @contextlib.contextmanager
    def using(self, adapter: str) -> Iterator[nn.Module]:
        """The model with one adapter active ("" is the bare base), alone, in inference mode; of several members the first one, or any by
        the name that `members` gives."""
        with self.lock, torch.inference_mode(), self._residents.active(adapter) as model:
            yield model

    # Scoring

    def label_set(self, labels: Sequence[str]) -> LabelSet:
        """Tokenize a closed set of answers (kept: a service asks for the same few sets again and again)."""
        key = tuple(labels)
        if key not in self._sets:
            trie = LabelTrie.of(key, [self.encoder.label(label) for label in key], self.encoder.eos)
            self._sets[key] = LabelSet.of(key, LabelTree.of(trie))
        return self._sets[key]

    def score(self, prompts: Sequence[Prompt], labels: Sequence[str], *, adapter: str = "", batch_tokens: int | None = None) -> Scores:
        """Probability of each label as the answer to each prompt; rows sum to 1.

        Prompts are encoded, sorted by length and run in batches of at most `batch_tokens` tokens; the result
        does not depend on the batching (within 1e-4 in float32, 1e-2 in bfloat16).
        """
        ids = self.encoder.prompts(prompts) if prompts else []
        return self.score_ids(ids, labels, adapter=adapter, batch_tokens=batch_tokens)

    def score_ids(
        self,
        ids: Sequence[Sequence[int]],
        labels: Sequence[str],
        *,
        adapter: str = "",
        batch_tokens: int | None = None,
        prefix: tuple[int, ...] | None = None,
        pool_from: int | None = None,
        readout_weight: float | None = None,
        features: bool = False,
    ) -> Scores:
        """As `score`, for prompts that are token ids already; `prefix` is their known common beginning. With `pool_from`, not below the
        prefix's length, hidden states are also averaged over the prompt's tokens from there on; an adapter with a readout says itself from
        where, and its readout shares in the answer, by its own weight or `readout_weight`; its umbrella readout stands apart. With
        `features` the scores carry the states that the readout reads, where there is one."""
        answer = self.label_set(labels)
        shared = shared_prefix(ids) if prefix is None else prefix
        turn = self._changes.get(adapter, 0)  # read before the readouts: answers by those of an adapter replaced since are not kept
        heads = [self._heads(member, answer.labels) for member in self.members(adapter)]
        wanted = pool_from is not None
        if heads[0]:
            shared, pool_from = shared[: heads[0][0].first], heads[0][0].first
        same, rows_of = _distinct(ids)
        question = Question(answer, adapter, shared, pool_from, features and bool(heads[0]), turn)
        told = self._told(question, heads, same, batch_tokens or self.batch_tokens)
        scores = _mean(told, answer, heads, readout_weight) if same else _nothing(answer)
        return _picked(scores, rows_of, pooled=wanted)

    def reads_out(self, adapter: str, labels: Sequence[str]) -> bool:
        """Whether a resident adapter has a readout for these labels."""
        return self.readout(adapter, tuple(labels)) is not None

    def umbrella(self, adapter: str) -> tuple[str, ...]:
        """The classes of a resident adapter's umbrella readout; none where it has none."""
        own = self._umbrellas.get(adapter)
        return own.labels if own is not None else ()

    def readout(self, adapter: str, labels: tuple[str, ...]) -> Readout | None:
        """The adapter's readout, where it has one that knows all the labels; of several members that of the first, or of the one named."""
        own = self._readouts.get(adapter)
        return own.of(labels) if own is not None else None

    def _heads(self, member: str, labels: tuple[str, ...]) -> list[Readout]:
        """A member's readout for these labels and its umbrella readout; nothing where it has no such readout."""
        readout, umbrella = self.readout(member, labels), self._umbrellas.get(member)
        return [] if readout is None else [readout] if umbrella is None else [readout, umbrella]

    def _told(
        self, question: Question, heads: Sequence[Sequence[Readout]], same: Sequence[tuple[int, ...]], batch_tokens: int
    ) -> list[tuple[Answer, ...]]:
        """What each member says to different prompts: kept answers, and new ones in batches of like length."""
        inner = len(question.answer.tree.tokens)
        limit = max(1, LOGIT_VALUES // (self._width(question.answer) * (inner + 1)))
        how = (question.answer.labels, question.prefix, question.pool_from, len(heads[0]), question.turn, question.features)
        with self.lock:
            told = [self._answers.get(question.adapter, how, row) for row in same]
        new = [i for i, one in enumerate(told) if one is None]
        using = functions(self.model)
        if using is None:
            parted = batches([len(same[i]) - len(question.prefix) + inner for i in new], batch_tokens, limit)
        else:
            parted = parts([same[i] for i in new], inner, batch_tokens)
        for batch in parted:
            rows = [same[new[k]] for k in batch]
            with self.lock:
                said = self._said(rows, question, heads, using)
                for k, one in zip(batch, zip(*said, strict=True), strict=True):
                    told[new[k]] = one
                    self._answers.put(question.adapter, how, same[new[k]], one)
        return [one for one in told if one is not None]

    def _width(self, answer: LabelSet) -> int:
        """Logits a position costs."""
        narrowed = type(self.model.get_output_embeddings()) is nn.Linear
        return max(1, len(answer.columns)) if narrowed else int(self.model.get_input_embeddings().weight.shape[0])

    def _said(
        self, rows: Sequence[Sequence[int]], question: Question, heads: Sequence[Sequence[Readout]], using: Native | None
    ) -> list[list[Answer]]:
        """What each member says to each prompt of one batch."""
        members = list(zip(self.members(question.adapter), heads, strict=True))
        if using is None:
            return [self._batch(rows, question, member, own) for member, own in members]
        tree, first = question.answer.tree, max(question.pool_from or 0, len(question.prefix))
        paths = Paths.of(rows, list(zip(tree.tokens, tree.depth.tolist(), strict=True)), first)
        return [self._along(paths, question, member, own, using) for member, own in members]

    def _along(self, paths: Paths, question: Question, member: str, heads: Sequence[Readout], using: Native) -> list[Answer]:
        """As `_batch`, for prompts as paths of a tree; see model.base.paths."""
        layers, rows = heads[0].layers if heads else (), len(paths.asked)
        with self.using(member) as model:
            assert isinstance(model, Llama)
            width, last = model.config.hidden_size, model.config.num_hidden_layers
            features, pooled = torch.empty(rows, 2 * width * len(layers)), torch.empty(rows, 2 * width)
            for layer, states in enumerate(hidden_states(model, paths, using)):
                for place in (k for k, read in enumerate(layers) if read == layer):
                    using.pool(states, paths.path, paths.ends, features[:, 2 * width * place : 2 * width * (place + 1)])
                if layer == last and question.pool_from is not None:
                    using.pool(states, paths.path, paths.ends, pooled)
            asked = states[paths.asked]
            columns = torch.tensor(question.answer.columns, dtype=torch.long)
            logits = torch.nn.functional.linear(asked, model.head.weight[columns])
            hidden = asked[:, :1] if question.pool_from is None else torch.stack([asked[:, 0], pooled[:, :width]], 1)
            return _answers(question, heads, logits.unbind(1), hidden, features if heads else None)

    def _batch(self, ids: Sequence[Sequence[int]], question: Question, member: str, heads: Sequence[Readout]) -> list[Answer]:
        """What a member says to each prompt of one batch: raw logits of the tree's columns, hidden states, that at the answer and with
        `pool_from` the prompt's mean, and the logits of the `heads`, readouts of the same states, side by side, with `features` the
        states themselves behind them."""
        answer, prefix, pool_from = question.answer, question.prefix, question.pool_from
        tree, rows = answer.tree, [row[len(prefix) :] for row in ids]
        lengths = torch.tensor([len(row) for row in rows])
        narrow = bool(tree.tokens) and self._narrow(max(map(len, ids)) + int(tree.depth.max()))
        columns = torch.tensor(answer.columns, dtype=torch.long, device=self.device)
        layers = heads[0].layers if heads else ()

        def pool(tokens: torch.Tensor) -> torch.Tensor | None:
            return None if pool_from is None else means(lengths, tokens.shape[1], max(0, pool_from - len(prefix)))

        with self.using(member) as model:
            cache = None
            if prefix:
                cache = self._prefixes.batch(member, prefix, len(ids), lambda head: self._prefill(model, head))
            if tree.tokens and not narrow:
                at, mask, positions = (t.to(self.device) for t in packed(tree, lengths, len(prefix)))
                tokens = padded([[*row, *tree.tokens] for row in rows]).to(self.device)
                seen = forward_at(
                    model, tokens, at, cache, mask=mask, positions=positions, columns=columns, pool=pool(tokens), layers=layers
                )
                steps = list(seen.logits.unbind(1))
            else:
                tokens = padded(rows).to(self.device)
                at = (lengths - 1)[:, None]
                seen = forward_at(model, tokens, at, cache, columns=columns, pool=pool(tokens), layers=layers)
                steps = [seen.logits[:, 0], *(self._branch_by_branch(model, answer, ids) if narrow else ())]
            return _answers(question, heads, steps, seen.hidden[:, [0] if pool_from is None else [0, -1]], seen.features)

    def _prefill(self, model: nn.Module, prefix: tuple[int, ...]) -> Cache:
        cache = new_cache(model)
        tokens = torch.tensor([prefix], device=self.device)
        forward_at(model, tokens, torch.zeros((1, 1), dtype=torch.long), cache, columns=tokens[0, :1])
        return cache

    def _narrow(self, length: int) -> bool:
        """Whether some layer sees less than `length` tokens back: a mask of our own would widen its window."""
        config = self.model.config.get_text_config()
        return length > (getattr(config, "sliding_window", None) or length)

    def _branch_by_branch(self, model: nn.Module, answer: LabelSet, ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Logits after each inner token of the tree, one plain forward over prompt and path for each."""
        out = []
        for k in range(len(answer.tree.tokens)):
            path = answer.tree.path(k)
            tokens = padded([[*row, *path] for row in ids]).to(self.device)
            at = torch.tensor([[len(row) + len(path) - 1] for row in ids])
            columns = torch.tensor(answer.columns, dtype=torch.long, device=self.device)
            out.append(forward_at(model, tokens, at, columns=columns).logits[:, 0])
        return out


def _answers(
    question: Question, heads: Sequence[Readout], steps: Sequence[torch.Tensor], hidden: torch.Tensor, features: torch.Tensor | None
) -> list[Answer]:
    """One answer a prompt: from the logits of the set's columns at the prompt's end and after each inner token of the tree (`steps`), the
    hidden states that go along, and the readouts' features."""
    picked = [steps[node + 1][:, list(places)] for node, places in question.answer.choices]
    flat = torch.cat(picked, 1) if picked else steps[0][:, :0]
    said = [head.logits(features) for head in heads] if features is not None else []
    said += [features] if question.features and features is not None else []
    second = torch.cat(said, 1) if said else torch.zeros(len(hidden), 0)
    return [Answer(*row) for row in zip(flat.double().cpu().numpy(), hidden.float().cpu().numpy(), second.cpu(), strict=True)]


def _check_alike(folders: Sequence[Path]) -> None:
    """ArtifactError where members answer with other labels, or from other states, than the first of them."""
    if len(folders) == 1:
        return
    read = [[Readout.load(folder, file) for file in (FILE, UMBRELLA)] for folder in folders]
    shapes = [[own and (own.labels, own.layers, own.first) for own in each] for each in read]
    for folder, shape in zip(folders, shapes, strict=True):
        if shape != shapes[0]:
            hint = "members are tuned alike, on the same data; register the task again"
            raise ArtifactError("artifact.members", "its readouts are not those of the other members", input=str(folder), hint=hint)


def _nothing(answer: LabelSet) -> Scores:
    return Scores(answer.labels, np.zeros((0, len(answer.labels))), np.zeros((0, len(answer.labels))))


def _mean(told: Sequence[tuple[Answer, ...]], answer: LabelSet, heads: Sequence[Sequence[Readout]], weight: float | None) -> Scores:
    """Scores of different prompts from what all members said: log-probabilities and readouts' logits are averaged, states stand side by
    side, in `hidden` [n, 1 or 2, width x members] before one is picked."""
    said = list(zip(*told, strict=True))
    trie = _averaged([answer.tree.log_probabilities(np.stack([one.flat for one in each])) for each in said])
    states = np.concatenate([np.stack([one.states for one in each]) for each in said], axis=2)
    if not heads[0]:
        return Scores(answer.labels, softmax(trie), trie, states)
    both = [torch.stack([one.said for one in each]) for each in said]
    own, columns = len(heads[0][0].labels), sum(len(head.labels) for head in heads[0])
    raw = torch.from_numpy(_averaged([each[:, :columns].numpy() for each in both]))
    share = heads[0][0].weight if weight is None else weight
    log_p = blended(torch.from_numpy(trie), raw[:, :own].double().log_softmax(1), share).numpy()
    umbrella = raw[:, own:].numpy() if columns > own else None
    features = np.concatenate([each[:, columns:].numpy() for each in both], axis=1) if both[0].shape[1] > columns else None
    return Scores(answer.labels, softmax(log_p), log_p, states, None, raw[:, :own].numpy(), umbrella, features)


def _averaged(parts: Sequence[Any]) -> Any:
    """The mean over members; what one says alone stays as it is, to the bit."""
    return parts[0] if len(parts) == 1 else np.mean(parts, axis=0, dtype=np.float64).astype(parts[0].dtype)


def _picked(scores: Scores, rows: Sequence[int], *, pooled: bool) -> Scores:
    """The scores of prompts from those of the different ones among them; `hidden` parts into the answer's and, if `pooled`, the mean."""
    if scores.hidden is None:
        return scores
    states, log_p = scores.hidden[rows], scores.logits[rows]
    more = (None if side is None else side[rows] for side in (scores.readout, scores.umbrella, scores.features))
    return Scores(scores.labels, softmax(log_p), log_p, states[:, 0], states[:, 1] if pooled else None, *more)


def _general(base: Base) -> Any:
    """The base's model as transformers has it: one opened for serving alone stays on the CPU in float32."""
    if not isinstance(base.model, Llama):
        return base.model
    from trafficllm.model.base.load import load_base

    return load_base(base.path, dtype="float32").model


def _distinct(ids: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Different prompts, and for each prompt which of them it is: scanners and beacons repeat themselves."""
    place: dict[tuple[int, ...], int] = {}
    rows = [place.setdefault(tuple(row), len(place)) for row in ids]
    return list(place), rows
