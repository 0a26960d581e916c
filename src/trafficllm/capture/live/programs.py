"""Which program captures (tcpdump or dumpcap), with which arguments, and how little it may do besides.

Packets are captured in a process of its own that needs two capabilities, CAP_NET_RAW and CAP_NET_ADMIN, and gets no others where this
process may take any away. Whoever judges the packets needs none.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trafficllm.core.errors import InputError, ResourceError, UsageError

PROGRAMS = ("tcpdump", "dumpcap")
"""In the order of preference: tcpdump also says while it runs how many packets the kernel dropped (SIGUSR1)."""
ANY = "any"
"""Linux' name for all interfaces together."""
_NOBODY = "nobody"
_CAPABILITIES = "-all,+net_raw,+net_admin"


@dataclass(frozen=True, slots=True)
class Source:
    """What is captured: an interface, of it the packets that a BPF expression lets through (empty: all), for so many seconds (0: until it
    is stopped), with a buffer of so many MiB in the kernel."""

    interface: str
    expression: str = ""
    seconds: int = 0
    buffer: int = 32


@dataclass(frozen=True, slots=True)
class Program:
    """A capturing program by its name, and where it is."""

    name: str
    path: str


def interfaces() -> list[str]:
    """Names of this machine's interfaces, in its own order."""
    return [name for _, name in socket.if_nameindex()]


def check_interface(name: str) -> None:
    """InputError where there is no such interface; names that a capturing program takes for a pipe or a remote host are none."""
    there = interfaces()
    if name not in {*there, ANY}:
        raise InputError("input.interface", "no such interface", input=name, hint=f"there are {', '.join([*there, ANY])}")


def pick_program(name: str = "") -> Program:
    """The program that is named, else the first one here that may capture; ResourceError where there is none."""
    if name and name not in PROGRAMS:
        raise UsageError("usage.program", f"no way to capture with '{name}'", input="--with", hint=f"one of {', '.join(PROGRAMS)}")
    here = [Program(key, path) for key in ([name] if name else PROGRAMS) if (path := shutil.which(key))]
    if not here:
        message = f"{name or 'neither tcpdump nor dumpcap'} is {'not ' if name else ''}installed"
        raise ResourceError("resource.program", message, hint="`apt-get install tcpdump`, or wireshark-common, which has dumpcap")
    return next(filter(_may_capture, here), here[0])


def _may_capture(program: Program) -> bool:
    """Whether the file itself brings what it takes: started by root, set-user-ID, or with capabilities of its own."""
    if os.geteuid() == 0 or Path(program.path).stat().st_mode & 0o4000:
        return True
    try:
        return bool(os.getxattr(program.path, "security.capability"))
    except (OSError, AttributeError):  # none, or no Linux
        return False


def arguments(program: Program, source: Source) -> list[str]:
    """The command line that writes classic pcap to stdout, each packet as it comes. Nothing in it passes through a shell."""
    if program.name == "dumpcap":
        limit = ["-a", f"duration:{source.seconds}"] if source.seconds else []
        chosen = ["-f", source.expression] if source.expression else []
        return [program.path, "-q", "-P", "-i", source.interface, "-B", str(source.buffer), *limit, *chosen, "-w", "-"]
    chosen = ["--", source.expression] if source.expression else []
    return [program.path, "-n", "-U", "-i", source.interface, "-B", str(source.buffer << 10), "-w", "-", *chosen]


def confined(command: Sequence[str], user: str = "") -> list[str]:
    """The command as `user` (default: nobody) with the two capabilities that capturing takes, where this process is root and util-linux'
    setpriv is there; else as it is, with the rights of whoever started it.

    It also ends with this process, and can gain no rights that it has not got.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return list(command)
    uid, gid = _ids(user or _NOBODY)
    who = ["--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    sets = [word for name in ("--inh-caps", "--ambient-caps", "--bounding-set") for word in (name, _CAPABILITIES)]
    return [setpriv, *who, *sets, "--no-new-privs", "--pdeathsig", "TERM", *command]


def check_user(user: str) -> None:
    """UsageError where there is no such user, or this process is not root; an empty name asks for none."""
    if user and os.geteuid() != 0:
        raise UsageError("usage.user", "only root can become another user", input="--user", hint="leave --user out")
    if user:
        _ids(user)


def become(user: str) -> None:
    """Give up root for an ordinary user, for good: what is read from the network is judged without its rights. See `check_user`."""
    import pwd

    uid, gid = _ids(user)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.environ.update(HOME=pwd.getpwuid(uid).pw_dir, USER=user, LOGNAME=user)


def _ids(user: str) -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise UsageError("usage.user", f"no such user '{user}'", input="--user", hint="name a user of this machine") from error
    return entry.pw_uid, entry.pw_gid
