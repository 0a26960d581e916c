"""The registry: immutable adapter versions in folders, one transactional live pointer a task.

Layout: `<root>/<task>/<version>/` (a stock PEFT folder, `manifest.json`, `README.md`), `<root>/<task>/pointer.json`,
`<root>/<task>/.lock`. Writers hold the task's lock; readers need none, since folders appear whole by one rename
and the pointer is replaced by another. A process killed anywhere leaves at most a hidden temporary folder, which `gc`
removes, or a complete version that is not live, which is a candidate.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trafficllm.core.errors import ArtifactError, InputError, ResourceError, UsageError
from trafficllm.core.files import atomic_dir, atomic_write, free_space, json_text, read_json, slug, write_json
from trafficllm.registry.card import model_card
from trafficllm.registry.folder import adapter_files, copy_files, differences, total_bytes
from trafficllm.registry.versions import STATUSES, Pointer, Status, Version, pointer_of, version_name, version_number

_POINTER, _MANIFEST, _CARD = "pointer.json", "manifest.json", "README.md"
_SPARE = 1 << 20


class Registry:
    """Adapter versions under one folder, safe for many processes at once.

    >>> registry = Registry("~/.local/share/trafficllm/adapters")  # doctest: +SKIP
    >>> registry.register("MTD", "out/adapter", manifest, status="live").version  # doctest: +SKIP
    'v0001'
    """

    def __init__(self, root: str | Path, *, lock_timeout: float = 60.0) -> None:
        self.root = Path(root).expanduser()
        self.lock_timeout = lock_timeout

    # writing

    def register(self, task: str, adapter_dir: str | Path, manifest: Mapping[str, Any], *, status: Status = "candidate") -> Version:
        """Copy an adapter folder in as the next version, with its manifest and model card.

        `status` "live" promotes it in the same transaction. The manifest gains `task`, `version` and `files` (SHA-256
        by name). Raises ArtifactError for a folder that cannot be an adapter, ResourceError when the disk is full.
        """
        if status not in STATUSES:
            raise UsageError("usage.status", f"'{status}' is no status", hint=", ".join(STATUSES))
        source = Path(adapter_dir)
        files = adapter_files(source)
        free_space(self.root, total_bytes(source, files) + _SPARE)
        with self._changing(task) as pointer:
            number = max([pointer.last, *map(version_number, self._names(task))]) + 1
            name = version_name(number)
            self._write_version(task, name, source, manifest)
            changed = _with_last(pointer, number)
            if status == "live":
                changed = changed.promoted(name)
            elif status == "rejected":
                changed = changed.refused(name)
            self._save(task, changed)
        return self.show(task, name)

    def promote(self, task: str, version: str) -> Version:
        """Make an existing version live; the one before it is what `rollback` returns to."""
        with self._changing(task) as pointer:
            self._must_exist(task, version)
            self._save(task, pointer.promoted(version))
        return self.show(task, version)

    def reject(self, task: str, version: str) -> Version:
        """Mark a version that is not live as refused by its gate."""
        with self._changing(task) as pointer:
            self._must_exist(task, version)
            self._save(task, pointer.refused(version))
        return self.show(task, version)

    def rollback(self, task: str) -> Version:
        """Make the previously live version live again; one small file is replaced, nothing is copied."""
        with self._changing(task, must_exist=True) as pointer:
            changed = pointer.rolled_back(frozenset(self._names(task)))
            self._save(task, changed)
        return self.live(task)

    def gc(self, task: str | None = None, *, keep: int = 3) -> Sequence[str]:
        """Remove what killed writers left and all but the live version, the last `keep` live ones and the last `keep`.

        Returns `task/version` of each removed version. Folders are renamed away first, so that a killed
        `gc` never leaves half a version.
        """
        removed = []
        for name in [task] if task else self.tasks():
            with self._changing(name, must_exist=True) as pointer:
                self._sweep(name)
                names = self._names(name)
                kept = {*names[-keep:], *pointer.history[-keep:], pointer.live} if keep else {pointer.live}
                for version in [v for v in names if v not in kept]:
                    self._discard(self._folder(name) / version)
                    removed.append(f"{name}/{version}")
                self._save(name, _forgotten(pointer, frozenset(self._names(name))))
        return removed

    def export(self, task: str, version: str, out: str | Path, *, leave_out: Sequence[str] = ()) -> Path:
        """Copy a verified version to `out`, a folder that stock PEFT loads (`PeftModel.from_pretrained`).

        Files and folders named in `leave_out` stay here.
        """
        chosen = self.show(task, version)
        self._raise_if_changed(chosen)
        with atomic_dir(out) as temporary:
            shutil.copytree(chosen.path, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*leave_out))
        return Path(out)

    # reading

    def tasks(self) -> Sequence[str]:
        """Names of tasks that have a version, sorted."""
        if not self.root.is_dir():
            return []
        pointers = sorted(self.root.glob(f"*/{_POINTER}"))
        return sorted(pointer_of(read_json(path), path).task for path in pointers)

    def list(self, task: str | None = None) -> Sequence[Version]:
        """All versions of a task, or of all tasks, oldest first."""
        found = []
        for name in [task] if task else self.tasks():
            for version in self._names(name):
                with contextlib.suppress(UsageError):  # another process's gc may have taken it since
                    found.append(self.show(name, version))
        return found

    def find_live(self, task: str) -> Version | None:
        """The live version of a task, or None."""
        name = self._pointer(task).live
        while name is not None:
            try:
                return self.show(task, name)
            except UsageError:
                again = self._pointer(task).live  # replaced and collected since the first look
                if again == name:
                    raise
                name = again
        return None

    def live(self, task: str) -> Version:
        """The live version of a task; raises ArtifactError when there is none."""
        found = self.find_live(task)
        if found is None:
            raise ArtifactError(
                "artifact.no_adapter",
                f"task {task} has no live adapter",
                input=task,
                hint=f"train one: `trafficllm adapter register CAPTURES --task {task}`",
            )
        return found

    def show(self, task: str, version: str) -> Version:
        """One version with its manifest."""
        folder = self._must_exist(task, version)
        try:
            manifest = read_json(folder / _MANIFEST)
        except InputError:
            self._must_exist(task, version)  # gone meanwhile: say so; unreadable: the first error stands
            raise
        return Version(task, version, self._pointer(task).status(version), folder, manifest)

    def revision(self, task: str) -> str:
        """Changes whenever the task's live version may have: a running service compares it before each request."""
        try:
            stat = (self._folder(task) / _POINTER).stat()
        except FileNotFoundError:
            return ""
        return f"{stat.st_mtime_ns}-{stat.st_ino}"

    def verify(self, task: str | None = None) -> dict[str, Sequence[str]]:
        """What is not as the manifests say, by `task/version`; empty when every file is as it was registered."""
        found = {f"{v.task}/{v.version}": self._differences(v) for v in self.list(task)}
        return {name: reasons for name, reasons in found.items() if reasons}

    # inside

    def _folder(self, task: str) -> Path:
        return self.root / slug(task)

    def _names(self, task: str) -> Sequence[str]:
        """Version folders on disk, by number; temporary ones start with a dot."""
        folder = self._folder(task)
        names = [path.name for path in folder.glob("v[0-9]*") if path.is_dir()] if folder.is_dir() else []
        return sorted(names, key=version_number)

    def _pointer(self, task: str) -> Pointer:
        path = self._folder(task) / _POINTER
        return pointer_of(read_json(path), path) if path.is_file() else Pointer(task)

    def _save(self, task: str, pointer: Pointer) -> None:
        write_json(self._folder(task) / _POINTER, pointer.as_json())

    def _must_exist(self, task: str, version: str) -> Path:
        version_number(version)
        folder = self._folder(task) / version
        if not (folder / _MANIFEST).is_file():
            raise UsageError(
                "usage.version", f"task {task} has no version {version}", input=task, hint="`trafficllm adapter list` shows the versions"
            )
        return folder

    @contextlib.contextmanager
    def _changing(self, task: str, *, must_exist: bool = False) -> Iterator[Pointer]:
        """Hold the task's lock (released by the kernel if we are killed) and give its pointer."""
        folder = self._folder(task)
        if must_exist and not folder.is_dir():
            raise UsageError("usage.task", f"no adapter of task '{task}'", input=task, hint="see `adapter list`")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=self.lock_timeout):
                yield self._pointer(task)
        except Timeout as error:
            raise ResourceError(
                "resource.locked",
                f"another process has held the registry for {self.lock_timeout:g} s",
                input=str(folder),
                hint="wait for it, or stop it",
            ) from error
        except PermissionError as error:
            raise ResourceError(
                "resource.permission", "no permission to write to the registry", input=str(folder), hint="check its owner"
            ) from error

    def _write_version(self, task: str, name: str, source: Path, manifest: Mapping[str, Any]) -> None:
        with atomic_dir(self._folder(task) / name) as temporary:
            hashes = copy_files(source, adapter_files(source), temporary)
            full = {**manifest, "task": task, "version": name, "files": hashes}
            atomic_write(temporary / _MANIFEST, json_text(full))
            atomic_write(temporary / _CARD, model_card(full))

    def _sweep(self, task: str) -> None:
        for path in self._folder(task).glob(".*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != ".lock":
                path.unlink(missing_ok=True)

    def _discard(self, folder: Path) -> None:
        away = folder.with_name(f".gone.{folder.name}")
        shutil.rmtree(away, ignore_errors=True)
        folder.replace(away)
        shutil.rmtree(away, ignore_errors=True)

    def _differences(self, version: Version) -> Sequence[str]:
        """As `differences`; nothing for a version that another process's gc removed while we looked."""
        try:
            found = differences(version.path, version.manifest.get("files", {}))
        except FileNotFoundError:
            found = ["files vanished while they were read"]
        return found if (version.path / _MANIFEST).is_file() else []

    def _raise_if_changed(self, version: Version) -> None:
        reasons = self._differences(version)
        if reasons:
            raise ArtifactError(
                "artifact.changed",
                "the version is not as it was registered: " + "; ".join(reasons),
                input=str(version.path),
                hint="register it again, or roll back",
            )


def _with_last(pointer: Pointer, number: int) -> Pointer:
    return Pointer(pointer.task, pointer.live, pointer.history, pointer.rejected, number)


def _forgotten(pointer: Pointer, kept: frozenset[str]) -> Pointer:
    """The pointer without versions that are gone."""
    past = tuple(name for name in pointer.history if name in kept)
    return Pointer(pointer.task, pointer.live, past, pointer.rejected & kept, pointer.last)
