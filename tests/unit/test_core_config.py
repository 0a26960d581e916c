"""core.config: strict keys with a suggestion; core.errors: the exit codes of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from trafficllm.core import errors
from trafficllm.core.errors import InputError, UsageError
from trafficllm.core.settings import Config, load_config


def test_defaults_need_no_file() -> None:
    assert load_config().records.profile == "strict"


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("[records]\nprofil = 'raw'", "records.profil", "profile"),
        ("[tun]\nr = 4", "tun", "tune"),
        ("[tune]\nlora_alfa = 2", "tune.lora_alfa", "lora_alpha"),
    ],
)
def test_a_typo_is_refused_with_a_suggestion(tmp_path: Path, text: str, key: str, suggestion: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert caught.value.where == key
    assert suggestion in caught.value.hint


def test_every_key_with_one_character_changed_is_refused(tmp_path: Path) -> None:
    tried = 0
    for section, field in Config.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {})
        for key in keys:
            path = tmp_path / "c.toml"
            path.write_text(f"[{section}]\n{key}x = 1\n")
            with pytest.raises(UsageError) as caught:
                load_config(path)
            assert key in caught.value.hint
            tried += 1
    assert tried >= 14


def test_values_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[tune]\nr = 0\n")
    with pytest.raises(UsageError, match=r"tune\.r"):
        load_config(path)
    path.write_text("not toml [")
    with pytest.raises(UsageError, match="TOML"):
        load_config(path)
    with pytest.raises(InputError):
        load_config(tmp_path / "none.toml")


def test_exit_codes() -> None:
    own = [cls for cls in errors.TrafficLLMError.__subclasses__() if cls.__module__ == errors.__name__]
    codes = {cls.__name__: cls.exit_code for cls in own}
    assert codes == {
        "UsageError": 2,
        "InputError": 3,
        "ArtifactError": 4,
        "GateError": 5,
        "ResourceError": 6,
        "FailOnError": 7,
        "UnreadError": 8,
    }
    error = InputError("input.x", "bad", input="f.pcap", where="byte 3", hint="mend it")
    assert str(error) == "f.pcap: bad (at byte 3)"
    assert set(error.as_dict()) == {"code", "input", "where", "message", "hint"}
