"""A registry that was damaged, tampered with, cut off by a kill or put on a bad disk: named refusals, and the rest goes on working."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from faults import fault, killed
from test_registry_store import MANIFEST, adapter

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, TrafficLLMError, UsageError
from trafficllm.core.files import json_text
from trafficllm.registry.store import Registry

NAMES = ("adapter_model.safetensors", "readout.safetensors", "umbrella.safetensors", "manifest.json", "adapter_config.json")


@pytest.fixture(name="made")
def _made(tmp_path: Path) -> Registry:
    """Two tasks, the first with two versions, each with weights, two readouts and a calibration."""
    source = adapter(tmp_path / "adapter", "w" * 500)
    (source / "readout.safetensors").write_text("r" * 300)
    (source / "umbrella.safetensors").write_text("u" * 300)
    registry = Registry(tmp_path / "registry", lock_timeout=5)
    for task, count in (("MTD", 2), ("EAC", 1)):
        for _ in range(count):
            registry.register(task, source, MANIFEST, status="live")
    return registry


def _copy(registry: Registry, place: Path) -> Registry:
    shutil.copytree(registry.root, place)
    return Registry(place, lock_timeout=5)


def _flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flips(registry: Registry, count: int) -> int:
    """Single-bit flips of the live MTD version's files, each refused by name, put back after it; returns how many were refused."""
    rng, folder = random.Random(3), registry.root / "MTD" / "v0002"
    refused = 0
    for _ in range(count):
        path = folder / rng.choice(NAMES)
        bit = rng.randrange(8 * path.stat().st_size)
        _flip(path, bit)
        with pytest.raises(TrafficLLMError) as caught:
            registry.live("MTD")
        refused += path.name in str(caught.value)
        assert registry.live("EAC").version == "v0001"
        _flip(path, bit)
    registry.live("MTD")
    return refused


def test_every_flipped_bit_is_refused_by_name_and_the_other_task_works(made: Registry) -> None:
    assert flips(made, 120) == 120


@pytest.mark.soak
def test_a_thousand_flipped_bits(made: Registry) -> None:
    assert flips(made, 1000) == 1000


def test_the_refusal_names_file_expected_and_found(made: Registry) -> None:
    version = made.live("MTD")
    _flip(version.path / "adapter_model.safetensors", 5)
    with pytest.raises(ArtifactError) as caught:
        made.live("MTD")
    assert f"adapter_model.safetensors has changed: expected {version.manifest['files']['adapter_model.safetensors']}, found " in str(
        caught.value
    )
    for change in (lambda: made.promote("MTD", "v0002"), lambda: made.export("MTD", "v0002", made.root.parent / "out")):
        with pytest.raises(ArtifactError, match="not as it was registered"):
            change()
    assert made.rollback("MTD").version == "v0001"


def test_a_damaged_version_is_no_way_back(made: Registry) -> None:
    _flip(made.root / "MTD" / "v0001" / "readout.safetensors", 9)
    with pytest.raises(ArtifactError, match=r"readout\.safetensors has changed"):
        made.rollback("MTD")
    assert made.live("MTD").version == "v0002"


def test_a_manifest_of_a_newer_schema_is_refused(made: Registry) -> None:
    path = made.root / "MTD" / "v0002" / "manifest.json"
    path.write_text(json_text({**json.loads(path.read_text()), "schema": "trafficllm.adapter/3"}))
    with pytest.raises(ArtifactError, match="this version reads up to") as caught:
        made.live("MTD")
    assert caught.value.code == "artifact.schema"


def test_manifests_of_the_first_kind_still_serve_and_their_files_are_compared(made: Registry) -> None:
    path = made.root / "MTD" / "v0002" / "manifest.json"
    body = {key: value for key, value in json.loads(path.read_text()).items() if key not in {"schema", "own_sha256"}}
    path.write_text(json.dumps(body))
    assert made.live("MTD").manifest["labels"] == MANIFEST["labels"]
    _flip(made.root / "MTD" / "v0002" / "adapter_model.safetensors", 0)
    with pytest.raises(ArtifactError, match="has changed"):
        made.live("MTD")


@pytest.mark.parametrize("name", ["../../EAC/v0001/manifest.json", "/etc/passwd", "a/../../x", "..", "sub/../../../x", "C:\\x"])
def test_files_that_a_manifest_names_elsewhere_are_never_opened(made: Registry, name: str) -> None:
    path = made.root / "MTD" / "v0002" / "manifest.json"
    body = {key: value for key, value in json.loads(path.read_text()).items() if key not in {"schema", "own_sha256"}}
    path.write_text(json.dumps({**body, "files": {**body["files"], name: "0" * 64}}))
    with pytest.raises(ArtifactError, match="no plain file name"):
        made.live("MTD")


def test_links_in_a_version_are_found(made: Registry, tmp_path: Path) -> None:
    folder = made.root / "MTD" / "v0002"
    (tmp_path / "elsewhere").mkdir()
    (folder / "wording").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="wording was added"):
        made.live("MTD")


# Numbers and content


def test_a_number_is_never_given_twice(made: Registry, tmp_path: Path) -> None:
    first = made.live("MTD")
    shutil.rmtree(made.root / "MTD")
    again = made.register("MTD", tmp_path / "adapter", MANIFEST, status="live")
    assert again.version == "v0003"
    assert again.content != first.content
    (made.root / "MTD" / "pointer.json").unlink()
    shutil.rmtree(made.root / "MTD" / "v0003")
    assert made.register("MTD", tmp_path / "adapter", MANIFEST, status="live").version == "v0004"
    (made.root / ".numbers" / "MTD.json").write_text("damaged")
    assert made.register("MTD", tmp_path / "adapter", MANIFEST).version == "v0005"


def test_equal_names_of_other_weights_are_other_contents(made: Registry, tmp_path: Path) -> None:
    before = made.live("EAC")
    shutil.rmtree(made.root)
    other = adapter(tmp_path / "other", "x" * 500)
    after = made.register("EAC", other, MANIFEST, status="live")
    assert (before.version, after.version) == ("v0001", "v0001")
    assert before.content != after.content
    assert len(after.content) == 64


# One fault stays one fault


def _mangled(path: Path, rng: random.Random) -> None:
    """Some damage to one file: flipped, cut, emptied, gone, replaced by a folder, pipe, link or JSON of another kind."""
    data = path.read_bytes()
    kind = rng.randrange(12)
    texts = ("null", "[]", "3", '"x"', "{}", '{"a": Infinity}', "[" * 9000, "9" * 10_000, '{"files": {"x": 3}}', '{"schema": [1]}')
    if kind == 0:
        _flip(path, rng.randrange(8 * len(data)))
    elif kind == 1:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 2:
        path.write_bytes(b"")
    elif kind in {3, 4, 5, 6}:
        path.unlink()
        if kind == 4:
            path.mkdir()
        elif kind == 5:
            os.mkfifo(path)
        elif kind == 6:
            path.symlink_to("nowhere")
    elif kind in {7, 8}:
        path.write_text(rng.choice(texts))
    elif kind in {9, 10} and path.suffix == ".json":
        _mangled_value(path, rng)
    else:
        path.write_bytes(rng.randbytes(rng.randrange(200)))


def _mangled_value(path: Path, rng: random.Random) -> None:
    """JSON with one value of another kind, unsealed: as an attacker or an old version would write it."""
    body = json.loads(path.read_bytes())
    body.pop("own_sha256", None)
    if path.name == "manifest.json":
        body.pop("schema", None)
    key = rng.choice(sorted(body) or ["new"])
    holder: Any = body
    if isinstance(body.get(key), dict) and body[key] and rng.random() < 0.5:
        holder, key = body[key], rng.choice(sorted(body[key]))
    holder[key] = rng.choice([None, 3, -1.5, "x", [], {}, [None], {"x": {}}, True, 10**30, ["../x"], {"../x": "y"}])
    path.write_text(json.dumps(body))


def damaged_registries(made: Registry, place: Path, count: int) -> int:
    """Damage `count` copies of MTD and use each; returns how many were noticed. Any error that is not ours ends the test."""
    rng, noticed = random.Random(11), 0
    for number in range(count):
        registry = _copy(made, place / str(number))
        victims = sorted(path for path in (registry.root / "MTD").rglob("*") if path.is_file() and path.name != ".lock")
        for path in rng.sample(victims, rng.choice([1, 1, 2])):
            _mangled(path, rng)
        noticed += _used(registry)
        shutil.rmtree(registry.root)
    return noticed


def _used(registry: Registry) -> bool:
    """Everything a reader and a writer does: refusals are ours, and EAC works throughout."""
    noticed = bool(registry.damaged())
    uses: list[Callable[[], object]] = [
        lambda: registry.live("MTD"),
        lambda: registry.find_live("MTD"),
        lambda: registry.show("MTD", "v0001"),
        lambda: registry.promote("MTD", "v0001"),
        lambda: registry.rollback("MTD"),
        lambda: registry.gc("MTD"),
        lambda: registry.revision("MTD"),
    ]
    noticed |= bool(registry.verify())
    for use in uses:
        try:
            use()
        except TrafficLLMError:
            noticed = True
    assert registry.live("EAC").version == "v0001"
    assert "EAC" in registry.tasks()
    assert set(registry.live_versions()) >= {"EAC"}
    assert [version.version for version in registry.list() if version.task == "EAC"] == ["v0001"]
    return noticed


def test_damaged_registries_end_in_refusals_of_ours(made: Registry, tmp_path: Path) -> None:
    assert damaged_registries(made, tmp_path / "damaged", 40) > 25


@pytest.mark.soak
def test_a_thousand_damaged_registries(made: Registry, tmp_path: Path) -> None:
    print(f"{damaged_registries(made, tmp_path / 'damaged', 1000)} of 1,000 noticed, no traceback")


def test_a_cut_pointer_is_named_and_the_others_are_listed(made: Registry) -> None:
    path = made.root / "MTD" / "pointer.json"
    path.write_bytes(path.read_bytes()[:40])
    assert made.tasks() == ["EAC"]
    assert [version.task for version in made.list()] == ["EAC"]
    damages = [damage.as_dict() for damage in made.damaged()]
    assert [(row["task"], row["code"], row["input"]) for row in damages] == [("MTD", "artifact.registry", str(path))]
    assert set(made.verify()) == {"MTD"}
    for use in (made.live, made.find_live):
        with pytest.raises(ArtifactError, match="pointer is damaged"):
            use("MTD")
    assert made.gc() == []


# Signatures


def _key(place: Path, name: str) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    (place / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (place / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return place / f"{name}.pem"


def test_signatures_hold_for_the_key_and_the_bytes_alone(made: Registry, tmp_path: Path) -> None:
    mine, other = _key(tmp_path, "mine"), _key(tmp_path, "other")
    assert set(made.verify("EAC", key=mine.with_suffix(".pub"))) == {"EAC/v0001"}
    made.sign("EAC", "v0001", mine)
    assert made.verify("EAC", key=mine.with_suffix(".pub")) == {}
    assert made.verify("EAC", key=mine) == {}
    assert made.verify("EAC") == {}
    assert "is not by" in made.verify("EAC", key=other.with_suffix(".pub"))["EAC/v0001"][0]
    folder = made.root / "EAC" / "v0001"
    good = (folder / "signature.json").read_bytes()
    rng = random.Random(2)
    for bit in rng.sample(range(8 * len(good)), 60):
        _flip(folder / "signature.json", bit)
        assert set(made.verify("EAC", key=mine.with_suffix(".pub"))) == {"EAC/v0001"}
        (folder / "signature.json").write_bytes(good)
    again = made.register("EAC", tmp_path / "adapter", {**MANIFEST, "seed": 1})
    shutil.copyfile(folder / "signature.json", again.path / "signature.json")
    assert set(made.verify("EAC", key=mine.with_suffix(".pub"))) == {"EAC/v0002"}


def test_keys_that_are_none_are_refused(made: Registry, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", other, b"\x00" * 100_000):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(InputError):
            made.sign("EAC", "v0001", tmp_path / "key")
        with pytest.raises(InputError):
            made.verify("EAC", key=tmp_path / "key")
    with pytest.raises(InputError):
        made.sign("EAC", "v0001", tmp_path / "absent")


# Order of writes


def _operations(registry: Registry, source: Path) -> dict[str, Callable[[], object]]:
    return {
        "register": lambda: registry.register("MTD", source, MANIFEST, status="live"),
        "promote": lambda: registry.promote("MTD", "v0001"),
        "rollback": lambda: registry.rollback("MTD"),
        "gc": lambda: registry.gc("MTD", keep=0),
    }


def kills_of(made: Registry, place: Path, name: str, *, stride: int) -> int:
    """Kill an operation before each `stride`-th of its calls; returns how many kills there were."""
    source, kills = place / "adapter", 0
    for at in range(0, 1000, stride):
        registry = _copy(made, place / f"k{at}")
        gone = killed(at, _operations(registry, source)[name])
        kills += gone
        assert registry.live("MTD").version in {"v0001", "v0002", "v0003"}
        assert registry.verify() == {}
        registry.gc("MTD")
        assert not [path.name for path in (registry.root / "MTD").glob(".*") if path.name != ".lock"]
        assert registry.register("MTD", source, MANIFEST).version in {"v0003", "v0004"}
        shutil.rmtree(registry.root)
        if not gone:
            break
    return kills


@pytest.mark.parametrize(("name", "least"), [("register", 10), ("promote", 2), ("rollback", 2), ("gc", 2)])
def test_a_kill_between_two_calls_leaves_a_whole_registry(made: Registry, tmp_path: Path, name: str, least: int) -> None:
    assert kills_of(made, tmp_path, name, stride=5) >= least


@pytest.mark.soak
@pytest.mark.parametrize("name", ["register", "promote", "rollback", "gc"])
def test_a_kill_between_any_two_calls_leaves_a_whole_registry(made: Registry, tmp_path: Path, name: str) -> None:
    print(f"{name}: {kills_of(made, tmp_path, name, stride=1)} kills, one before each call, 0 torn")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("name", ["register", "promote", "rollback", "gc"])
def test_a_failed_call_ends_in_a_refusal_and_a_whole_registry(made: Registry, tmp_path: Path, name: str, number: int) -> None:
    source, refused = tmp_path / "adapter", 0

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(0, 1000, 4):
        registry = _copy(made, tmp_path / f"f{at}")
        with fault(at, fail) as calls:
            try:
                _operations(registry, source)[name]()
            except TrafficLLMError:
                refused += 1
        assert registry.live("MTD").version in {"v0001", "v0002", "v0003"}
        assert registry.verify() == {}
        shutil.rmtree(registry.root)
        if len(calls) <= at:
            break
    assert refused >= 2


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
def test_a_read_only_file_system_is_said_so(made: Registry) -> None:
    script = (
        "import sys; from trafficllm.registry.store import Registry; from trafficllm.core.errors import TrafficLLMError\n"
        "r = Registry(sys.argv[1]); m = {'labels': ['a']}\n"
        "for f in (lambda: r.promote('MTD', 'v0001'), lambda: r.rollback('MTD'), lambda: r.gc(), lambda: r.register('MTD', sys.argv[2], m),"
        " lambda: r.register('NEW', sys.argv[2], m)):\n"
        "    try: f(); print('done')\n"
        "    except TrafficLLMError as error: print(error.code)\n"
        "print(r.live('MTD').version, r.verify())"
    )
    root, source = str(made.root), str(made.root.parent / "adapter")
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$0" -c "$3" "$1" "$2"'
    shell = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, root, source, script], capture_output=True, text=True, check=False
    )
    if "resource" not in shell.stdout and "permitted" in shell.stderr:
        pytest.skip("mounting is not permitted here")
    assert shell.stdout.splitlines() == ["resource.permission"] * 5 + ["v0002 {}"], shell.stderr


def test_files_of_the_registry_are_their_owners_alone(made: Registry) -> None:
    before = os.umask(0)
    try:
        made.register("NEW", made.root.parent / "adapter", MANIFEST, status="live")
    finally:
        os.umask(before)
    modes = {path.relative_to(made.root).as_posix(): path.stat().st_mode & 0o777 for path in made.root.rglob("*")}
    assert {mode for name, mode in modes.items() if (made.root / name).is_dir()} == {0o700}
    assert {mode for name, mode in modes.items() if (made.root / name).is_file()} == {0o600}


def test_what_is_missing_is_still_a_usage_error(made: Registry) -> None:
    with pytest.raises(UsageError):
        made.show("MTD", "v0009")
    with pytest.raises(ResourceError):
        Registry(made.root / "MTD" / "pointer.json" / "below").register("X", made.root.parent / "adapter", MANIFEST)


@pytest.mark.parametrize("schema", [[], {}, [1], None, 3, True, "trafficllm.adapter/1", "x" * 5000])
def test_a_schema_of_any_kind_is_refused_or_read(made: Registry, schema: Any) -> None:
    path = made.root / "MTD" / "v0002" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(ArtifactError):
        made.live("MTD")
