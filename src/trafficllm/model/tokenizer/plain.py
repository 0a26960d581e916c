"""A folder's tokenizer without transformers: `tokenizers` and the few names around it that the encoder asks for.

Only for folders whose configuration names nothing but the plain class and the usual special tokens; the rest is left to transformers,
whose classes may rebuild a pipeline, add tokens or bring a chat template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import TrafficLLMError
from trafficllm.core.files import read_json
from trafficllm.model.base.folder import COMPANIONS, TOKENIZER
from trafficllm.model.tokenizer.extend import load_raw

CONFIG = "tokenizer_config.json"
_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_IGNORED = ("tokenizer_class", "backend", "model_max_length", "clean_up_tokenization_spaces", "is_local", "local_files_only")
"""Keys besides the special tokens' that change no ids."""
_LARGEST = 1 << 16


class PlainTokenizer:
    """What `model.tuning.encode.Encoder` and the generator use of a transformers tokenizer, for one that needs no class of its own."""

    chat_template: None = None

    def __init__(self, raw: Any, named: Mapping[str, str], folder: Path) -> None:
        self._raw = raw
        self.name_or_path = str(folder)
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = (named.get(name) for name in _NAMED)
        self.all_special_tokens = list(dict.fromkeys(named[name] for name in _NAMED if name in named))

    @classmethod
    def of(cls, folder: Path) -> PlainTokenizer | None:
        """The tokenizer of a folder; None where transformers might make anything else of it."""
        others = [name for name in COMPANIONS if name != CONFIG and (folder / name).exists()]
        if others or not (folder / TOKENIZER).is_file() or not (folder / CONFIG).is_file():
            return None
        try:
            config: Any = read_json(folder / CONFIG, largest=_LARGEST)
            raw = load_raw(folder)
        except TrafficLLMError:
            return None
        if not isinstance(config, dict) or config.keys() - {*_NAMED, *_IGNORED} or config.get("tokenizer_class") not in _CLASSES:
            return None
        named = {name: config[name] for name in _NAMED if config.get(name) is not None}
        added = {token.content for token in raw.get_added_tokens_decoder().values() if token.special}
        plain = all(isinstance(token, str) and token in added for token in named.values())
        if not plain or "eos_token" not in named or raw.truncation is not None or raw.padding is not None:
            return None
        named.setdefault("pad_token", named["eos_token"])
        return cls(raw, named, folder)

    def __len__(self) -> int:
        return int(self._raw.get_vocab_size(with_added_tokens=True))

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool = True, return_attention_mask: bool = False
    ) -> dict[str, Any]:
        """{"input_ids": ids} of a text, or a list of them of several."""
        del return_attention_mask  # none is made
        if isinstance(text, str):
            return {"input_ids": list(self._raw.encode(text, add_special_tokens=add_special_tokens).ids)}
        return {"input_ids": [row.ids for row in self._raw.encode_batch(list(text), add_special_tokens=add_special_tokens)]}

    @property
    def backend_tokenizer(self) -> Any:
        """The library's own tokenizer."""
        return self._raw

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Id -> token of all that was added to the vocabulary."""
        tokens: dict[int, Any] = self._raw.get_added_tokens_decoder()
        return tokens

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends an answer."""
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills a row."""
        return self._id(self.pad_token)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._raw.token_to_id(token)

    def get_vocab(self) -> dict[str, int]:
        """Surface -> id, added tokens included."""
        vocabulary: dict[str, int] = self._raw.get_vocab(with_added_tokens=True)
        return vocabulary

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of a surface."""
        index = self._raw.token_to_id(token)
        return self._id(self.unk_token) if index is None else index

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """Surface of an id, or surfaces of several."""
        return self._raw.id_to_token(ids) if isinstance(ids, int) else [self._raw.id_to_token(index) for index in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens shown."""
        return str(self._raw.decode(list(ids), skip_special_tokens=False))
