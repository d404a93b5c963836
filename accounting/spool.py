"""The append-only journal of one process: what stands here survives the process and an absent database.

A spool is a row of preallocated segments, so that a full disk is noticed before an upstream is called and not after.
Each segment is locked by its owner for as long as it lives; a segment whose lock is free belongs to the dead.
Every line is `crc32 payload`, eight hexadecimal digits and JSON; zeros mark the unwritten rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

logger = logging.getLogger("ccproxy.spool")

SUFFIX = ".spool"
DRAFT_SUFFIX = ".draft"
# A younger draft may be a living process's that has not locked it yet; an older one is nobody's.
DRAFT_SECONDS = 60.0


class SpoolFull(Exception):
    """Nothing can be written: the disk is full, gone or read-only. The text says which."""


def seal(payload: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def unseal(line: bytes) -> bytes | None:
    """The payload of a line, None where the line is damaged."""
    check, space, payload = line[:8], line[8:9], line[9:]
    if space != b" " or check != b"%08x" % zlib.crc32(payload):
        return None
    return payload


class Segment:
    """One preallocated, locked file."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size
        self.written = 0
        self._descriptor = descriptor
        self._dirty = False

    @classmethod
    def create(cls, path: Path, size: int) -> Segment:
        """Locked and filled before it gets its name, so that nobody meets it half made."""
        draft = path.with_suffix(DRAFT_SUFFIX)
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _reserve(descriptor, size)
            os.rename(draft, path)
            _sync_directory(path.parent)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        return cls(path, descriptor, size)

    def has_room(self, length: int) -> bool:
        return self.written + length <= self.size

    def append(self, line: bytes) -> None:
        done = os.pwrite(self._descriptor, line, self.written)
        if done != len(line):
            raise OSError(f"only {done} of {len(line)} bytes were written to {self.path.name}")
        self.written += done
        self._dirty = True

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self._descriptor, end - start, start)

    def sync(self) -> None:
        if self._dirty:
            self._dirty = False
            try:
                self.sync_now()
            except OSError:
                self._dirty = True
                raise

    def sync_now(self) -> None:
        """Even where a sync is under way: it may have begun before the last line was written."""
        os.fdatasync(self._descriptor)

    def close(self, *, remove: bool) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Spool:
    """This process's segments: the last is written, the ones before it wait until they are booked."""

    def __init__(self, directory: Path, *, segment_bytes: int, sync_every_line: bool = False) -> None:
        self.directory = directory
        self.owner = f"{time.time_ns()}-{os.getpid()}"
        self._segment_bytes = segment_bytes
        self._sync_every_line = sync_every_line
        self._segments: list[Segment] = []
        self._finished: list[Segment] = []
        self._made = 0
        self._read_position = 0  # in the oldest segment
        self._needed = 0  # by the last line that had to leave room, with that room
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, payloads: Iterable[bytes], carry: Callable[[], Iterable[bytes]], leave_free: int = 0) -> None:
        """All payloads in one write. `carry` gives the lines that a new segment must begin with.

        `leave_free` bytes remain in the segment for lines that must find room on a full disk. Raises SpoolFull when
        nothing could be written.
        """
        lines = b"".join(map(seal, payloads))
        with self._lock:
            try:
                if (
                    leave_free
                ):  # a settlement finds the room that was left for it; what is asked is whether more may run
                    self._needed = len(lines) + leave_free
                segment = self._segment_for(len(lines), leave_free, carry)
                segment.append(lines)
                if self._sync_every_line:
                    segment.sync_now()
            except OSError as error:
                raise SpoolFull(f"the spool in {self.directory} cannot be written: {error}") from error

    def _segment_for(self, length: int, leave_free: int, carry: Callable[[], Iterable[bytes]]) -> Segment:
        if self._segments and self._segments[-1].has_room(length + leave_free):
            return self._segments[-1]
        carried = b"".join(map(seal, carry()))
        segment = self._create(max(self._segment_bytes, 2 * (len(carried) + length + leave_free)))
        try:
            segment.append(carried)
        except OSError:
            segment.close(remove=True)
            raise
        self._segments.append(segment)
        return segment

    def _create(self, size: int) -> Segment:
        segment = Segment.create(self.directory / f"{self.owner}-{self._made:06}{SUFFIX}", size)
        self._made += 1
        return segment

    def probe(self) -> None:
        """Raises SpoolFull where another line that must leave room could not be written now."""
        with self._lock:
            if self._segments and self._segments[-1].has_room(self._needed):
                return
            try:
                segment = self._create(self._segment_bytes)
            except OSError as error:
                raise SpoolFull(f"the spool in {self.directory} cannot be written: {error}") from error
            if self._segments:
                segment.close(remove=True)
            else:
                self._segments.append(segment)  # the first request would make it anyway

    def sync(self) -> None:
        """To the disk; outside the lock, since a slow disk must not hold up a request."""
        with self._lock:
            segments, finished, self._finished = [*self._segments], self._finished, []
        for segment in segments:
            segment.sync()
        for segment in finished:
            segment.close(remove=True)

    def unread(self) -> tuple[list[bytes], Callable[[], bool]]:
        """Payloads not yet booked, of one segment, and what to call once they are: it says whether another follows."""
        with self._lock:
            if not self._segments:
                return [], lambda: False
            segment, start = self._segments[0], self._read_position
            end = segment.written
        payloads = [payload for line in segment.read(start, end).splitlines() if (payload := unseal(line))]
        return payloads, lambda: self._booked(segment, end)

    def _booked(self, segment: Segment, end: int) -> bool:
        with self._lock:
            if not self._segments:  # closed meanwhile
                return False
            self._read_position = end
            another_follows = segment is not self._segments[-1]
            if another_follows and end == segment.written:
                # Only sync() closes: it may be holding this descriptor right now.
                self._finished.append(self._segments.pop(0))
                self._read_position = 0
            return another_follows

    @property
    def backlog(self) -> int:
        """Bytes written and not yet booked."""
        with self._lock:
            return sum(segment.written for segment in self._segments) - self._read_position

    def close(self, *, remove: bool) -> None:
        """`remove` only when everything in it is booked; else the next process adopts it."""
        with self._lock:
            for segment in self._segments:
                segment.close(remove=remove)
            for segment in self._finished:
                segment.close(remove=True)
            self._segments.clear()
            self._finished.clear()


class Orphan:
    """The segments of one dead process, locked by us."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.damaged = 0
        self._files: list[tuple[Path, int]] = []

    def claim(self, paths: Iterable[Path]) -> bool:
        """All of them or none: half a journal would tell half a story."""
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.error("the journal of a process that is gone waits until it can be read: %s", error)
                self.release(remove=False)
                return False
            self._files.append((path, descriptor))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.release(remove=False)
                return False
            if not os.fstat(descriptor).st_nlink:
                # Its owner lives and was done with it, between our opening and our locking it.
                self._files.pop()
                os.close(descriptor)
        return bool(self._files)

    def has_all_of(self, paths: Iterable[Path]) -> bool:
        return {path for path, _ in self._files} >= set(paths)

    def payloads(self) -> Iterator[bytes]:
        for _, descriptor in self._files:
            with open(descriptor, "rb", closefd=False) as file:
                file.seek(0)
                for line in file:
                    # After a power cut a page may be zeros while the next one was written.
                    text = line.strip(b"\0\n")
                    if not text:
                        continue
                    payload = unseal(text)
                    if payload is not None:
                        yield payload
                    # Without its end it was being written when the process died, and nobody has relied on it.
                    elif line.endswith(b"\n"):
                        self.damaged += 1

    def release(self, *, remove: bool) -> None:
        for path, descriptor in self._files:
            if remove:
                path.unlink(missing_ok=True)
            os.close(descriptor)
        self._files.clear()

    def keep_as_evidence(self) -> None:
        """Out of the way of later adoptions, for somebody to look at."""
        for path, _ in self._files:
            path.rename(path.with_suffix(".damaged"))
        self.release(remove=False)


@contextlib.contextmanager
def orphans(directory: Path, living_owner: str) -> Iterator[Iterator[Orphan]]:
    """The journals of the dead. One process adopts at a time; whoever comes second sees none.

    A journal that is not released stays, for the next look.
    """
    claimed: list[Orphan] = []
    descriptor = os.open(directory / "adoption.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield iter(())
            return
        yield _claimed(directory, living_owner, claimed)
    finally:
        for orphan in claimed:
            orphan.release(remove=False)
        os.close(descriptor)


def _claimed(directory: Path, living_owner: str, claimed: list[Orphan]) -> Iterator[Orphan]:
    for owner, paths in _journals(directory).items():
        orphan = Orphan(owner)
        if owner == living_owner or not orphan.claim(paths):
            continue
        claimed.append(orphan)
        # It may have made another segment after we had looked, and died then.
        if orphan.has_all_of(_journals(directory).get(owner, ())):
            yield orphan


def _journals(directory: Path) -> dict[str, list[Path]]:
    owners: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix == SUFFIX or (path.suffix == DRAFT_SUFFIX and _is_old(path)):
            owners.setdefault(path.stem.rpartition("-")[0], []).append(path)
    return owners


def _is_old(draft: Path) -> bool:
    try:
        return time.time() - draft.stat().st_mtime > DRAFT_SECONDS
    except FileNotFoundError:
        return False


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.pwrite(descriptor, bytes(size), 0)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
