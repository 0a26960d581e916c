"""Extend any Hugging Face fast tokenizer with traffic tokens, leaving every natural-language id as it was.

The tokens enter `tokenizer.json` as added tokens (not normalized, not special, no stripping): the one form measured to leave
BPE, SentencePiece BPE and Unigram pipelines untouched. The file is edited below the transformers classes, because some of them
rebuild the normalizer on load and would write the rebuilt one back.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ArtifactError
from trafficllm.core.files import atomic_dir, atomic_write, inside, read_json, sha256_file
from trafficllm.model.base.folder import COMPANIONS, TOKENIZER, check_folder
from trafficllm.model.base.meta import first_line
from trafficllm.model.tokenizer.patterns import check_patterns

MOST_HOLES = 4096
"""More unused ids than this are no oversight but a broken file."""
MOST_PLANE16 = 64
"""More plane-16 pieces than this are a traffic vocabulary, not a corpus' stray icons (Gemma 3 has 4)."""
_FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
_PLANE16 = re.compile("[\U00100000-\U0010ffff]")
_SAFE = re.compile(r"[A-Za-z0-9 .\-_/:=]*")
"""The alphabet that untrusted text keeps (records.prompts): a control surface made of it alone could be forged."""


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """What `extend` did: entries before and after, traffic tokens added, id of the first, hashes of both files."""

    base_vocab: int
    vocab_size: int
    tokens_added: int
    first_id: int
    base_sha256: str
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def added_tokens(tokens: Iterable[str]) -> list[Any]:
    """The `AddedToken` objects of traffic surfaces, with the flags that hold on every pipeline."""
    from tokenizers import AddedToken

    return [AddedToken(token, **_FLAGS) for token in tokens]


def load_raw(folder: str | Path) -> Any:
    """The `tokenizers.Tokenizer` of a folder; ArtifactError where there is none or it is not one."""
    from tokenizers import Tokenizer

    path = inside(folder, TOKENIZER)
    if not path.is_file():
        raise ArtifactError("artifact.tokenizer", "no tokenizer.json in this folder", input=str(folder), hint="name a model folder")
    try:
        raw = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a malformed file
        raise ArtifactError(
            "artifact.tokenizer", f"not a tokenizer: {first_line(error)}", input=str(path), hint="the file may be cut"
        ) from error
    check_patterns(raw, str(path))
    return raw


def load_auto(folder: str | Path) -> Any:
    """The transformers tokenizer of a local folder, by its own class; never runs code from the folder."""
    from transformers import AutoTokenizer

    check_folder(Path(folder))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of a malformed folder the library raises whatever it stumbles over
        raise ArtifactError(
            "artifact.tokenizer",
            f"no tokenizer that can be loaded: {first_line(error)}",
            input=str(folder),
            hint="name a folder that holds tokenizer.json",
        ) from error
    check_patterns(tokenizer, str(folder))
    return tokenizer


def fill_holes(raw: Any) -> tuple[Any, int]:
    """(the tokenizer with an unreachable entry at every unused id, how many); the library would give those ids away twice.

    o200k-style files have such holes between their pieces and their control tokens. Only models that keep ids in a
    table (BPE, WordPiece) can be filled; others come back as they are.
    """
    used = set(raw.get_vocab(with_added_tokens=True).values())
    holes = sorted(set(range(max(used, default=-1) + 1)) - used)
    state = json.loads(raw.to_str()) if holes else {}
    if not holes or len(holes) > MOST_HOLES or not isinstance(state["model"].get("vocab"), dict):
        return raw, 0
    from tokenizers import Tokenizer

    # Raw spaces: byte-level pipelines write a space as another letter, marked ones as U+2581, so no text reaches these.
    state["model"]["vocab"].update({f"<unused id {index}>": index for index in holes})
    for entry in state["added_tokens"]:
        state["model"]["vocab"].setdefault(entry["content"], entry["id"])
    return Tokenizer.from_str(json.dumps(state)), len(holes)


def free_plane16(raw: Any) -> tuple[Any, int]:
    """(the tokenizer with its own plane-16 pieces renamed so that no text reaches them, how many).

    Gemma 3's file holds four such characters, private use all of them; as text they fall back to bytes afterwards. Pieces that
    merges build on, and files with more than a few, come back as they are: that is a traffic base already, or not understood.
    """
    taken = [piece for piece in raw.get_vocab(with_added_tokens=False) if _PLANE16.search(piece)]
    if not taken or len(taken) > MOST_PLANE16:
        return raw, 0
    state = json.loads(raw.to_str())
    vocabulary = state["model"].get("vocab")
    added = any(_PLANE16.search(entry["content"]) for entry in state["added_tokens"])
    built = any(_PLANE16.search("".join(merge)) for merge in state["model"].get("merges") or ())
    if added or built:
        return raw, 0
    names = {piece: f"<private use {' '.join(f'{ord(letter):X}' for letter in piece)}>" for piece in taken}
    if isinstance(vocabulary, dict):
        state["model"]["vocab"] = {names.get(piece, piece): index for piece, index in vocabulary.items()}
    else:
        state["model"]["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(state)), len(taken)


def check_base(raw: Any, name: str) -> None:
    """Refuse a base whose ids have holes or whose vocabulary already uses plane 16."""
    vocabulary: dict[str, int] = raw.get_vocab(with_added_tokens=True)
    ids = set(vocabulary.values())
    if len(ids) != len(vocabulary) or max(ids, default=-1) + 1 != len(ids):
        raise ArtifactError(
            "artifact.tokenizer_ids",
            f"its ids are not 0..{len(ids) - 1} without holes (largest {max(ids, default=-1)})",
            input=name,
            hint="added tokens would get a duplicate id; fill the holes in tokenizer.json first",
        )
    taken = [token for token in vocabulary if _PLANE16.search(token)]
    if taken:
        raise ArtifactError(
            "artifact.tokenizer_plane16",
            f"{len(taken)} entries already hold plane-16 characters",
            input=name,
            hint="is it a traffic base already? extend its plain base instead",
        )


def forgeable(surfaces: Collection[str]) -> list[str]:
    """Control surfaces written in the safe alphabet alone: rendering could not break them up, so they must not exist."""
    return sorted(surface for surface in surfaces if surface and _SAFE.fullmatch(surface))


def _sync_class_tokens(raw: Any, auto: Any, name: str) -> None:
    """Write tokens that the class adds on load (T5's extra ids) into the file, so that later ids do not collide."""
    extra = sorted(
        (index, token) for index, token in auto.added_tokens_decoder.items() if index >= raw.get_vocab_size(with_added_tokens=True)
    )
    for index, token in extra:
        raw.add_special_tokens([token]) if token.special else raw.add_tokens([token])
        if raw.token_to_id(token.content) != index:
            raise ArtifactError(
                "artifact.tokenizer_ids",
                f"its class gives {token.content!r} id {index}, its file would give another",
                input=name,
                hint="save the tokenizer with save_pretrained first",
            )


def extend(base_dir: str | Path, tokens: Sequence[str], out_dir: str | Path) -> TokenizerReport:
    """Write the tokenizer of `base_dir` with traffic `tokens` added to `out_dir`.

    Native ids stay; the new ones follow the last. Raises ArtifactError where the base's ids have holes, its vocabulary holds
    plane-16 characters, or a control surface could be spelt in the safe alphabet.
    """
    base = Path(base_dir)
    auto = load_auto(base)
    with atomic_dir(out_dir) as folder:
        if not (base / TOKENIZER).is_file():
            auto.save_pretrained(folder)  # a folder with only a SentencePiece model: the class converts it
        else:
            for name in (TOKENIZER, *COMPANIONS):
                if (base / name).is_file():
                    shutil.copyfile(inside(base, name), inside(folder, name))
        source_hash = sha256_file(folder / TOKENIZER)
        raw, holes = fill_holes(load_raw(folder))
        raw, freed = free_plane16(raw)
        check_base(raw, str(base))
        if holes or freed:
            raw.save(str(folder / TOKENIZER))
            auto = load_auto(folder)
        _sync_class_tokens(raw, auto, str(base))
        loose = forgeable({token.content for token in auto.added_tokens_decoder.values() if token.special})
        if loose:
            raise ArtifactError(
                "artifact.tokenizer_control",
                f"control tokens spelt in plain text could be forged: {', '.join(loose[:5])}",
                input=str(base),
                hint="rename them in tokenizer.json, for instance with angle brackets",
            )
        return _add(raw, tokens, folder, source_hash)


def _add(raw: Any, tokens: Sequence[str], folder: Path, source_hash: str) -> TokenizerReport:
    before = int(raw.get_vocab_size(with_added_tokens=True))
    added = int(raw.add_tokens(added_tokens(tokens)))
    raw.save(str(folder / TOKENIZER))
    _tell_config(folder, tokens, before)
    after = load_raw(folder)
    auto = load_auto(folder)
    if added != len(set(tokens)):
        raise ArtifactError("artifact.tokenizer_ids", f"{len(set(tokens)) - added} traffic tokens were already there", input=str(folder))
    for place, token in enumerate(tokens):
        seen = {raw.token_to_id(token), after.token_to_id(token), auto.convert_tokens_to_ids(token)}
        if seen != {before + place}:
            raise ArtifactError(
                "artifact.tokenizer_ids",
                f"traffic token {place} got ids {sorted(map(str, seen))} instead of {before + place}",
                input=str(folder),
                hint="the tokenizer's class renumbers its tokens on load",
            )
    size = int(after.get_vocab_size(with_added_tokens=True))
    return TokenizerReport(before, size, added, before, source_hash, sha256_file(folder / TOKENIZER))


def _tell_config(folder: Path, tokens: Sequence[str], first: int) -> None:
    """List the tokens in `added_tokens_decoder` too where the configuration has one: classes that rebuild their pipeline on load
    (Llama's, Qwen2's) take their added tokens from there, and would drop those that only tokenizer.json names."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config.get("added_tokens_decoder"), dict):
        return
    config["added_tokens_decoder"].update({str(first + place): {"content": token, **_FLAGS} for place, token in enumerate(tokens)})
    atomic_write(path, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def traffic_ids(raw_or_auto: Any) -> dict[str, int]:
    """Surface -> id of every traffic token of a tokenizer (raw or transformers), in id order."""
    vocabulary: dict[str, int] = raw_or_auto.get_vocab()
    traffic = ((token, index) for token, index in vocabulary.items() if _PLANE16.match(token))
    return dict(sorted(traffic, key=lambda pair: pair[1]))


def record_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Unit string of token ids: the join of their surfaces, since some decoders put spaces between added tokens."""
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def opening_ids(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before a text by itself: its beginning-of-sequence token, or nothing.

    Gemma 3 270M costs 2.96 nats a token of English behind it and 6.50 without: its attention rests on that token.
    """
    first = tokenizer("")["input_ids"][:1]
    return [int(first[0])] if first and first[0] == tokenizer.bos_token_id else []
