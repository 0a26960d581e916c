"""The registry: immutable adapter versions in folders, one transactional live pointer a task.

Layout: `<root>/<task>/<version>/` (a stock PEFT folder, `manifest.json`, `README.md`), `<root>/<task>/pointer.json`,
`<root>/<task>/.lock`, and `<root>/.numbers/<task>.json`, which outlives the task's folder so that a version number is never used twice.
Writers hold the task's lock; readers need none, since folders appear whole by one rename and the pointer is replaced by another. A
process killed anywhere leaves at most a hidden temporary folder, which `gc` removes, or a complete version that is not live, which is a
candidate. A task or version that is damaged is named (`damaged`) and left out; the others work.

A second folder of the same layout, `shipped` with the package, may lie under it: read only, its live version answers for a task of which
the registry has none. `promote` copies a shipped version; everything else that writes refuses it or passes it by.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, UsageError
from trafficllm.core.files import (
    atomic_dir,
    atomic_write,
    free_space,
    make_folder,
    read_bytes,
    read_json,
    remove,
    resource_error,
    sha256_bytes,
    slug,
    sweep,
    write_json,
)
from trafficllm.core.sealed import SEAL, read_sealed, sealed
from trafficllm.registry import manifest as manifests
from trafficllm.registry import signature
from trafficllm.registry.card import model_card
from trafficllm.registry.folder import adapter_files, copy_files, differences, total_bytes
from trafficllm.registry.versions import STATUSES, Damage, Pointer, Source, Status, Version, pointer_of, version_name, version_number

_POINTER, _NUMBERS = "pointer.json", ".numbers"
_SPARE = 1 << 20


class Registry:
    """Adapter versions under one folder, safe for many processes at once.

    With a `trusted_key` (PEM, Ed25519) only versions signed by it are given as `live`, which is what all that loads weights asks for.
    `shipped`: the folder of the package's own versions, see above.

    >>> registry = Registry("~/.local/share/trafficllm/adapters")  # doctest: +SKIP
    >>> registry.register("MTD", "out/adapter", manifest, status="live").version  # doctest: +SKIP
    'v0001'
    """

    def __init__(
        self, root: str | Path, *, lock_timeout: float = 60.0, trusted_key: str | Path | None = None, shipped: str | Path | None = None
    ) -> None:
        self.root = Path(root).expanduser()
        self.lock_timeout = lock_timeout
        self.trusted_key = trusted_key
        self.shipped = Registry(shipped, trusted_key=trusted_key) if shipped is not None else None
        self._source: Source = "registry"
        if self.shipped is not None:
            self.shipped._source = "shipped"

    # writing

    def register(self, task: str, adapter_dir: str | Path, manifest: Mapping[str, Any], *, status: Status = "candidate") -> Version:
        """Copy an adapter folder in as the next version, with its manifest and model card.

        `status` "live" promotes it in the same transaction. The manifest gains `schema`, `task`, `version`, `files` (SHA-256
        by name) and its own hash. Raises ArtifactError for a folder that cannot be an adapter, ResourceError when the disk is full.
        """
        if status not in STATUSES:
            raise UsageError("usage.status", f"'{status}' is no status", hint=", ".join(STATUSES))
        source = Path(adapter_dir)
        files = adapter_files(source)
        free_space(self.root, total_bytes(source, files) + _SPARE)
        with self._changing(task) as pointer:
            number = max([pointer.last, self._last_number(task), *map(version_number, self._names(task))]) + 1
            name = version_name(number)
            write_json(self._number_file(task), {"last": number}, private=True)
            self._write_version(task, name, source, manifest)
            changed = _with_last(pointer, number)
            if status == "live":
                changed = changed.promoted(name)
            elif status == "rejected":
                changed = changed.refused(name)
            self._save(task, changed)
        return self.show(task, name)

    def promote(self, task: str, version: str) -> Version:
        """Make an existing version live; the one before it is what `rollback` returns to. A shipped version is copied first.

        Raises ArtifactError for a version that is not as it was registered.
        """
        if self._is_shipped(task, version):
            return self.adopt(task, version)
        with self._changing(task) as pointer:
            self._raise_if_changed(self._shown(task, version, pointer))
            self._save(task, pointer.promoted(version))
        return self.show(task, version)

    def adopt(self, task: str, version: str) -> Version:
        """Copy a shipped version in as the task's next one and make it live; its manifest says what it was copied from."""
        assert self.shipped is not None
        source = self.shipped.show(task, version)
        self.shipped._raise_if_changed(source)
        body = {key: value for key, value in source.manifest.items() if key not in {"schema", "task", "version", "files", SEAL}}
        copied = {"source": "shipped", "version": version, "content": source.content}
        return self.register(task, source.path, {**body, "copied_from": copied}, status="live")

    def rollback(self, task: str) -> Version:
        """Make the previously live version live again; one small file is replaced, nothing is copied."""
        with self._changing(task, must_exist=True) as pointer:
            changed = pointer.rolled_back(frozenset(self._names(task)))
            self._raise_if_changed(self._shown(task, str(changed.live), changed))
            self._save(task, changed)
        return self.live(task)

    def sign(self, task: str, version: str, key: str | Path) -> dict[str, Any]:
        """Sign a version that is as it was registered with an Ed25519 key; see `registry.signature`."""
        if self._is_shipped(task, version):
            raise self._read_only(task, version)
        with self._changing(task, must_exist=True) as pointer:
            shown = self._shown(task, version, pointer)
            self._raise_if_changed(shown)
            return signature.sign(shown.path, key)

    def gc(self, task: str | None = None, *, keep: int = 3) -> Sequence[str]:
        """Remove what killed writers left and all but the live version, the last `keep` live ones and the last `keep`.

        Returns `task/version` of each removed version. Folders are renamed away first, so that a killed
        `gc` never leaves half a version.
        """
        removed = []
        for name in [task] if task else self._own_tasks():
            with self._changing(name, must_exist=True) as pointer:
                self._sweep(name)
                names = self._names(name)
                spared = {*names[-keep:], *pointer.history[-keep:], pointer.live} if keep else {pointer.live}
                for version in [v for v in names if v not in spared]:
                    self._discard(self._folder(name) / version)
                    removed.append(f"{name}/{version}")
                self._save(name, _forgotten(pointer, frozenset(self._names(name))))
        return removed

    def export(self, task: str, version: str, out: str | Path, *, leave_out: Sequence[str] = ()) -> Path:
        """Copy a verified version to `out`, a folder that stock PEFT loads (`PeftModel.from_pretrained`).

        Files and folders named in `leave_out` stay here.
        """
        shown = self.show(task, version)
        self._raise_if_changed(shown)
        with atomic_dir(out) as temporary:
            for path in sorted(path for path in shown.path.rglob("*") if path.is_file() and not path.is_symlink()):
                place = path.relative_to(shown.path)
                if not any(part in leave_out for part in place.parts):
                    make_folder((temporary / place).parent)
                    shutil.copyfile(path, temporary / place)
        return Path(out)

    # reading

    def tasks(self) -> Sequence[str]:
        """Names of tasks that have a version, here or shipped, sorted; a task whose pointer is damaged is left out."""
        return sorted({*self._own_tasks(), *(self.shipped.tasks() if self.shipped is not None else ())})

    def list(self, task: str | None = None) -> Sequence[Version]:
        """All versions of a task, or of all tasks, oldest first, then the shipped ones; what is damaged is left out (see `damaged`)."""
        own = [row for row in self._survey(task) if isinstance(row, Version)]
        if self.shipped is None:
            return own
        answered = {row.task for row in own if row.status == "live"}
        return own + [replace(row, status="candidate") if row.task in answered else row for row in self.shipped.list(task)]

    def damaged(self, task: str | None = None) -> Sequence[Damage]:
        """The tasks and versions that cannot be read, each with its error."""
        below = self.shipped.damaged(task) if self.shipped is not None else ()
        return [*(row for row in self._survey(task) if isinstance(row, Damage)), *below]

    def live_versions(self) -> dict[str, Version]:
        """The live version of every task that has one; what is damaged is left out."""
        lives = {}
        for task in self.tasks():
            with contextlib.suppress(ArtifactError):
                version = self.find_live(task)
                if version is not None:
                    lives[task] = version
        return lives

    def find_live(self, task: str) -> Version | None:
        """The live version of a task, else the shipped one, or None; its files are not compared with its manifest."""
        return self._find_own(task) or (self.shipped.find_live(task) if self.shipped is not None else None)

    def _find_own(self, task: str) -> Version | None:
        name = self._pointer(task).live
        while name is not None:
            try:
                return self._shown(task, name, self._pointer(task))
            except UsageError:
                again = self._pointer(task).live  # replaced and collected since the first read
                if again == name:
                    raise
                name = again
        return None

    def live(self, task: str, *, signed: bool = True) -> Version:
        """The live version of a task, every file compared with its hash (read again only where it changed), its signature checked.

        Raises ArtifactError when there is none, naming file, expected and found hash where it is not as it was registered, and where its
        signature is wrong or, with a `trusted_key`, missing; not `signed`: signatures do not count, it is only looked at or signed.
        """
        version = self.find_live(task)
        if version is None:
            raise ArtifactError(
                "artifact.no_adapter",
                f"task {task} has no live adapter",
                input=task,
                hint=f"train one: `trafficllm adapter register CAPTURES --task {task}`",
            )
        self._raise_if_changed(version)
        if signed:
            self._raise_if_untrusted(version)
        return version

    def show(self, task: str, version: str) -> Version:
        """One version with its manifest; a shipped one where the registry has none of that name."""
        if self.shipped is not None and self._is_shipped(task, version):
            return self.shipped.show(task, version)
        return self._shown(task, version, self._pointer(task))

    def revision(self, task: str) -> str:
        """Changes whenever the task's live version may have: a running service compares it before each request."""
        path = self._folder(task) / _POINTER
        try:
            stat = path.stat()
            return f"{sha256_bytes(read_bytes(path, largest=_SPARE))[:16]}-{stat.st_mtime_ns}-{stat.st_ino}"
        except (OSError, InputError):
            return self.shipped.revision(task) if self.shipped is not None else ""

    def verify(self, task: str | None = None, *, key: str | Path | None = None) -> dict[str, Sequence[str]]:
        """What is not as the manifests say, by `task/version`; empty when every file is as it was registered.

        With a public `key` (default: the registry's `trusted_key`), versions without a valid signature by it are named too.
        """
        faults: dict[str, Sequence[str]] = {}
        if self.shipped is not None:
            faults |= {f"shipped {name}": reasons for name, reasons in self.shipped.verify(task, key=key).items()}
        for row in self._survey(task):
            if isinstance(row, Damage):
                faults[row.name] = [str(row.error)]
            else:
                reasons = [*self._differences(row), *signature.differences(row.path, key or self.trusted_key)]
                faults[f"{row.task}/{row.version}"] = reasons
        return {name: reasons for name, reasons in faults.items() if reasons}

    # inside

    def _own_tasks(self) -> Sequence[str]:
        return sorted(pointer.task for pointer, _ in self._pointers() if pointer is not None)

    def _is_shipped(self, task: str, version: str) -> bool:
        """Whether a version is one of the package's and the registry has none of that name."""
        if self.shipped is None or version in self._names(task):
            return False
        version_number(version)
        return version in self.shipped._names(task)

    def _read_only(self, task: str, version: str) -> UsageError:
        hint = f"`trafficllm adapter promote {task} {version}` copies it into {self.root}"
        return UsageError("usage.shipped", f"{task} {version} is shipped with the package and read only", input=task, hint=hint)

    def _folder(self, task: str) -> Path:
        return self.root / slug(task)

    def _names(self, task: str) -> Sequence[str]:
        """Version folders on disk, by number; temporary ones start with a dot."""
        folder = self._folder(task)
        names = [path.name for path in folder.glob("v[0-9]*") if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []
        return sorted((name for name in names if _is_version(name)), key=version_number)

    def _pointer(self, task: str) -> Pointer:
        path = self._folder(task) / _POINTER
        return _read_pointer(path) if path.is_symlink() or path.exists() else Pointer(task)

    def _pointers(self) -> Iterator[tuple[Pointer | None, Damage | None]]:
        """The pointer, or what is wrong with it, of every task that has one."""
        for path in sorted(self.root.glob(f"*/{_POINTER}")) if self.root.is_dir() else ():
            if path.parent.name.startswith("."):
                continue
            try:
                yield _read_pointer(path), None
            except ArtifactError as error:
                yield None, Damage(path.parent.name, "", error)

    def _survey(self, task: str | None) -> Iterator[Version | Damage]:
        pointers: Iterator[tuple[Pointer | None, Damage | None]] = iter([(self._pointer(task), None)]) if task else self._pointers()
        for pointer, damage in pointers:
            if damage is not None:
                yield damage
            if pointer is None:
                continue
            for name in self._names(pointer.task):
                try:
                    yield self._shown(pointer.task, name, self._pointer(pointer.task))
                except UsageError:  # another process's gc may have taken it since
                    continue
                except ArtifactError as error:
                    yield Damage(pointer.task, name, error)

    def _shown(self, task: str, version: str, pointer: Pointer) -> Version:
        folder = self._must_exist(task, version)
        try:
            body, content = manifests.read(folder, version)
        except (InputError, ArtifactError):
            self._must_exist(task, version)  # gone meanwhile: say so; unreadable: the first error stands
            raise
        return Version(task, version, pointer.status(version), folder, body, content, self._source)

    def _save(self, task: str, pointer: Pointer) -> None:
        atomic_write(self._folder(task) / _POINTER, sealed(pointer.as_json()), private=True)

    def _number_file(self, task: str) -> Path:
        return self.root / _NUMBERS / f"{slug(task)}.json"

    def _last_number(self, task: str) -> int:
        """The last number ever given to a version of the task, also before its folder was removed; 0 where nothing is on record."""
        try:
            body = read_json(self._number_file(task), largest=_SPARE)
        except InputError:
            return 0
        last = body.get("last") if isinstance(body, dict) else None
        return last if type(last) is int and 0 <= last < 10**9 else 0

    def _must_exist(self, task: str, version: str) -> Path:
        version_number(version)
        folder = self._folder(task) / version
        if not (folder / manifests.FILE).exists():
            if folder.is_dir():  # folders appear and vanish whole, so this is no version on its way
                raise ArtifactError(
                    "artifact.damaged", f"{manifests.FILE} is missing", input=str(folder), hint="restore it, or register the task again"
                )
            raise UsageError(
                "usage.version", f"task {task} has no version {version}", input=task, hint="`trafficllm adapter list` shows the versions"
            )
        return folder

    @contextlib.contextmanager
    def _changing(self, task: str, *, must_exist: bool = False) -> Iterator[Pointer]:
        """Hold the task's lock (released by the kernel if we are killed) and give its pointer."""
        folder = self._folder(task)
        if must_exist and not folder.is_dir():
            below = self.shipped.find_live(task) if self.shipped is not None else None
            if below is not None:
                raise self._read_only(task, below.version)
            raise UsageError("usage.task", f"no adapter of task '{task}'", input=task, hint="see `adapter list`")
        try:
            make_folder(self.root, private=True)
            make_folder(folder, private=True)
            with FileLock(folder / ".lock", timeout=self.lock_timeout, mode=0o600):
                yield self._pointer(task)
        except Timeout as error:
            raise ResourceError(
                "resource.locked",
                f"another process has held the registry for {self.lock_timeout:g} s",
                input=str(folder),
                hint="wait for it, or stop it",
            ) from error
        except OSError as error:
            raise resource_error(error, folder) from error

    def _write_version(self, task: str, name: str, source: Path, manifest: Mapping[str, Any]) -> None:
        with atomic_dir(self._folder(task) / name, private=True) as temporary:
            hashes = copy_files(source, adapter_files(source), temporary)
            text = manifests.written(manifest, task, name, hashes)
            atomic_write(temporary / manifests.FILE, text, private=True)
            atomic_write(temporary / manifests.CARD, model_card({**manifest, "task": task, "version": name}), private=True)

    def _sweep(self, task: str) -> None:
        """Remove what killed writers left; all writers hold the task's lock, so nothing hidden is in use."""
        sweep(self._folder(task))
        for path in self._folder(task).glob(".*"):
            if path.name != ".lock":
                remove(path)

    def _discard(self, folder: Path) -> None:
        away = folder.with_name(f".gone.{folder.name}")
        remove(away)
        folder.replace(away)
        remove(away)

    def _differences(self, version: Version) -> Sequence[str]:
        """As `differences`; nothing for a version that another process's gc removed meanwhile."""
        try:
            reasons = differences(version.path, version.manifest.get("files", {}))
        except FileNotFoundError:
            reasons = ["files vanished while they were read"]
        except OSError as error:
            reasons = [f"cannot be read: {error.strerror}"]
        return reasons if (version.path / manifests.FILE).exists() else []

    def _raise_if_changed(self, version: Version) -> None:
        reasons = self._differences(version)
        if reasons:
            raise ArtifactError(
                "artifact.changed",
                "the version is not as it was registered: " + "; ".join(reasons),
                input=str(version.path),
                hint="register it again, or roll back",
            )

    def _raise_if_untrusted(self, version: Version) -> None:
        reasons = signature.differences(version.path, self.trusted_key)
        if reasons:
            sign = f"`trafficllm adapter sign {version.task} --key PRIVATE.pem`"
            hint = f"sign it with {sign}" if self.trusted_key else f"sign it again with {sign}, or remove signature.json"
            raise ArtifactError("artifact.signature", f"not loaded: {'; '.join(reasons)}", input=str(version.path), hint=hint)


def _is_version(name: str) -> bool:
    try:
        version_number(name)
    except UsageError:
        return False
    return True


def _read_pointer(path: Path) -> Pointer:
    try:
        return pointer_of(read_sealed(path), path)
    except InputError as error:
        raise ArtifactError(
            "artifact.registry",
            f"the task's pointer is damaged: {error.message}",
            input=str(path),
            where=error.where,
            hint="restore it from a backup, or remove it and promote a version again",
        ) from error


def _with_last(pointer: Pointer, number: int) -> Pointer:
    return Pointer(pointer.task, pointer.live, pointer.history, pointer.rejected, number)


def _forgotten(pointer: Pointer, present: frozenset[str]) -> Pointer:
    """The pointer without versions that are gone."""
    past = tuple(name for name in pointer.history if name in present)
    return Pointer(pointer.task, pointer.live, past, pointer.rejected & present, pointer.last)
