"""What the kernel knows of processes and their connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class End:
    """One end of a connection, by its ports."""

    here: int
    there: int
    waiting: int  # bytes that have come and were not read
    inode: str


def ends() -> Iterator[End]:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, _, _, _, _, inode, *_ = line.split()
        yield End(
            int(here.partition(":")[2], 16), int(there.partition(":")[2], 16), int(queues.partition(":")[2], 16), inode
        )


def waiting(line: socket.socket) -> int:
    """What the other end has not read yet."""
    here, there = line.getsockname()[1], line.getpeername()[1]
    return sum(end.waiting for end in ends() if (end.here, end.there) == (there, here))


def memory(pid: int) -> int:
    """Resident, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def descriptors(pid: int, kept_to: set[int]) -> int:
    """Open ones, without the connections to these ports, which are kept to be used again.

    SQLite closes its files when it likes: those are not counted either.
    """
    kept = {f"socket:[{end.inode}]" for end in ends() if end.there in kept_to}
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            what = str(path.readlink())
        except FileNotFoundError:  # closed since
            continue
        found += what not in kept and ".sqlite3" not in what
    return found
