"""GGUF files: bounded headers, import as plain folders, what is checked after loading."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from gguf_samples import vocabulary, write_gguf

from trafficllm.core.errors import ArtifactError, InputError
from trafficllm.core.files import read_json
from trafficllm.model.base import gguf as module
from trafficllm.model.base.gguf import Imported, import_gguf
from trafficllm.model.base.gguf_header import read_gguf_header
from trafficllm.model.base.load import load_base
from trafficllm.model.tokenizer.extend import load_auto


@pytest.fixture(scope="module", name="file")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module", name="imported")
def _imported(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Imported]:
    out = tmp_path_factory.mktemp("imported") / "base"
    return out, import_gguf(file, out)


def test_a_file_of_the_working_folder_is_not_taken_for_the_one_that_is_imported(
    file: Path, imported: tuple[Path, Imported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 reads weights from the working folder where it holds a file of the name it is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but another")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF, but another")
    import_gguf(file, tmp_path / "base")
    ours, theirs = (load_base(place, dtype="float32").model.state_dict() for place in (tmp_path / "base", imported[0]))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_header_says_what_was_written(file: Path) -> None:
    header = read_gguf_header(file)
    assert (header.architecture, header.own("rope.freq_base"), header.tokens) == ("llama", 100_000.0, len(vocabulary()[0]))
    assert header.tensors["blk.0.ffn_down.weight"] == (32, 64)


def test_import_is_a_plain_folder_with_the_same_weights(file: Path, imported: tuple[Path, Imported]) -> None:
    import gguf

    out, found = imported
    base = load_base(out, dtype="float32")
    assert (found.rope_theta, found.tied, found.digits_apart, found.licence) == (100_000.0, True, True, "apache-2.0")
    assert base.model.config.rope_parameters["rope_theta"] == 100_000.0
    assert "quantization_config" not in read_json(out / "config.json")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(str(file)).tensors}
    rows = torch.from_numpy(stored["token_embd.weight"].copy())
    assert torch.equal(base.model.get_input_embeddings().weight, rows.to(torch.bfloat16).float())
    assert base.manifest["source"]["name"] == "tiny.gguf"
    assert [path.name for path in out.glob("*.gguf")] == []


def test_random_weights_are_told_by_a_warning(imported: tuple[Path, Imported]) -> None:
    assert any("blind guess" in warning for warning in imported[1].warnings)


def test_digits_stand_apart_as_the_files_pre_tokenizer_wants(imported: tuple[Path, Imported], tmp_path: Path) -> None:
    """Two spaces before a digit are one piece only where digits are cut first; GPT-2's rule alone leaves the last space to the digit."""
    other = tmp_path / "gpt2"
    import_gguf(write_gguf(tmp_path / "gpt2.gguf", pre="gpt-2"), other)
    pieces = {name: load_auto(folder).tokenize("the  12") for name, folder in (("smollm", imported[0]), ("gpt-2", other))}
    assert pieces == {"smollm": ["the", "ĠĠ", "1", "2"], "gpt-2": ["the", "Ġ", "Ġ", "1", "2"]}


def test_untied_weights_stay_untied(tmp_path: Path) -> None:
    assert import_gguf(write_gguf(tmp_path / "x.gguf", tied=False, theta=10_000.0), tmp_path / "out").tied is False


def test_a_rope_that_was_not_read_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_gguf_header(file)
    monkeypatch.setitem(header.values, "llama.rope.freq_base", 500_000.0)
    monkeypatch.setattr(module, "read_gguf_header", lambda _: header)
    with pytest.raises(ArtifactError, match="rope theta"):
        import_gguf(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_architectures_are_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="'zebra'") as caught:
        import_gguf(write_gguf(tmp_path / "x.gguf", architecture="zebra"), tmp_path / "out")
    assert caught.value.code == "artifact.architecture"


def test_no_file_and_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_gguf_header(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("GGML or so")
    with pytest.raises(ArtifactError, match="does not begin with GGUF"):
        read_gguf_header(tmp_path / "text.gguf")


@pytest.mark.parametrize("share", [0.0003, 0.01, 0.3, 0.9, 0.9999])
def test_a_cut_file_is_refused_wherever_it_is_cut(file: Path, tmp_path: Path, share: float) -> None:
    data = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: max(4, int(len(data) * share))])
    with pytest.raises(ArtifactError, match="no whole GGUF file"):
        read_gguf_header(tmp_path / "cut.gguf")


def _header(*, version: int = 3, tensors: int = 1, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


_KEY = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"llama")


def _tensor(*shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return _KEY + _text(b"t") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_header(version=1), "version 1"),
        (_header(tensors=1 << 40), "tensors"),
        (_header(keys=1 << 40), "keys"),
        (_header(keys=1, rest=struct.pack("<Q", 1 << 60)), "a string of"),
        (_header(keys=1, rest=_text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 60)), "an array of"),
        (_header(keys=1, rest=_text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 20)), "ends within its header"),
        (_header(keys=1, rest=_text(b"a") + struct.pack("<IIQ", 9, 9, 1)), "an array of"),
        (_header(keys=1, rest=_text(b"a") + struct.pack("<I", 77)), "kind 77"),
        (_header(keys=2, rest=_KEY + _KEY), "twice"),
        (_header(keys=0), "no architecture"),
        (_header(keys=1, rest=_tensor(8, kind=250)), "type 250"),
        (_header(keys=1, rest=_tensor(1 << 40, 1 << 40)), "has shape"),
        (_header(keys=1, rest=_tensor(33, kind=3)), "has shape"),
        (_header(keys=1, rest=_tensor(8, offset=1 << 62)), "tensors end"),
        (_header(keys=1, rest=_tensor(*([1] * 9))), "dimensions"),
        (_header(keys=1, rest=_tensor(1024)), "tensors end"),
    ],
)
def test_hostile_headers_are_refused_within_their_own_size(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ArtifactError, match=why):
        read_gguf_header(tmp_path / "x.gguf")
