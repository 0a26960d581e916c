"""The most memory that this program has held: one way for every benchmark."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Peak resident memory of this program alone, in bytes (VmHWM, proc_pid_status(5)).

    What `getrusage` says (ru_maxrss) begins with the memory of the process that started this one: a small program that a large one
    started would be told as large. Linux alone has this file.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
