"""Members of an adapter version: several adapters on one base, whose answers are averaged, and where each lies in the version's folder.

The folder itself is the first member, so that stock PEFT loads it; the others are PEFT folders below it: `members/2`, `members/3`.
"""

from __future__ import annotations

from pathlib import Path

from trafficllm.core.errors import ArtifactError

FOLDER = "members"
MOST = 9
"""Members at most: each costs a scoring."""


def place(folder: Path, number: int) -> Path:
    """The folder of a member, counted from 1.

    >>> place(Path("MTD/v0001"), 3).as_posix()
    'MTD/v0001/members/3'
    """
    return folder if number == 1 else folder / FOLDER / str(number)


def folders(folder: Path) -> tuple[Path, ...]:
    """The folders of all members, the first one first; one for an adapter alone.

    Raises ArtifactError where something else than members lies between them, or one of them is missing.
    """
    inside = folder / FOLDER
    if not inside.exists() and not inside.is_symlink():
        return (folder,)
    names = {path.name for path in inside.iterdir()} if inside.is_dir() and not inside.is_symlink() else set()
    wanted = [str(number) for number in range(2, len(names) + 2)]
    if not names or names != set(wanted) or len(names) >= MOST or any((inside / name).is_symlink() for name in names):
        raise ArtifactError(
            "artifact.members",
            f"{FOLDER} does not hold the folders 2, 3 ... {MOST} at most, and nothing else",
            input=str(folder),
            hint="restore the version from a backup, or register the task again",
        )
    return (folder, *(inside / name for name in wanted))
