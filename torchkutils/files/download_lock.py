"""One process at a time for each download: a lock of the system where it has one, else a file with a lifetime.

A lock file is removed while it is held. So whoever gets the lock looks whether the name still belongs to the file
that was locked, and begins anew where it does not.

Some network disks refuse locks (ENOLCK, EOPNOTSUPP). There a second file counts while its holder renews its time; a
file that nobody has renewed for SOFT_LIFETIME is taken away. Others grant the lock to everybody: nothing can be done
about the second request then, but no process removes what another one is writing (see `sidecar_files`).
"""

# ruff: noqa: PTH100, PTH104, PTH116, PTH120
from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torchkutils._caller_warnings import warn_caller
from torchkutils.files import sidecar_files
from torchkutils.files.sidecar_files import SidecarFiles, is_alive, process_token, this_machine

if sys.platform == "win32":
    import msvcrt
else:
    # A few systems (WebAssembly) have neither.
    with contextlib.suppress(ImportError):
        import fcntl

SOFT_LIFETIME = 60.0
"""Seconds after which a lock file that its holder has not renewed is taken away."""

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.EBADF}
_LOOK_SECONDS = 1.0
_OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_threads: dict[str, threading.Lock] = {}
_soft_locks_said: set[str] = set()
Release = Callable[[], None]

if hasattr(os, "register_at_fork"):
    # A lock that another thread held at the fork would never be released in the child.
    os.register_at_fork(after_in_child=_threads.clear)


class _NoLocksHere(Exception):  # noqa: N818 - leads to the other kind of lock
    """The file system has no locks."""


@contextlib.contextmanager
def only_one_process(sidecars: SidecarFiles, purpose: str) -> Iterator[None]:
    """Hold the download's lock; wait for another holder as long as its temporary files change.

    Raises:
        TimeoutError: Another process held the lock for LOCK_PATIENCE seconds without any visible progress.
        OSError: The lock file cannot be made or opened.
    """
    patience = _Patience(sidecars, purpose)
    threads = _threads.setdefault(os.path.abspath(sidecars.lock), threading.Lock())
    while not threads.acquire(timeout=_LOOK_SECONDS / 10):
        patience.look()
    try:
        release = _acquired(sidecars.lock, patience)
        try:
            yield
        finally:
            release()
    finally:
        threads.release()


@contextlib.contextmanager
def only_if_free(sidecars: SidecarFiles) -> Iterator[None]:
    """Hold the download's lock, at once or not at all.

    Raises:
        BlockingIOError: Somebody else holds it, or the file system has no locks to tell.
        OSError: The lock file cannot be made or opened.
    """
    try:
        release = _try_system_lock(sidecars.lock)
    except _NoLocksHere as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "nobody knows who holds it", sidecars.lock) from error
    if release is None:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it", sidecars.lock)
    try:
        yield
    finally:
        release()


@dataclass
class _Patience:
    """Waits as long as the holder's temporary files change."""

    sidecars: SidecarFiles
    purpose: str
    marks: set[tuple[str, int, int]] = field(default_factory=set)
    looked: float = -_LOOK_SECONDS
    deadline: float = 0.0

    def look(self) -> None:
        """Raise TimeoutError when the holder has shown no progress for too long."""
        now = time.monotonic()
        patience = sidecar_files.LOCK_PATIENCE
        if now - self.looked < min(_LOOK_SECONDS, patience):
            return
        marks = self._marks()
        if marks != self.marks or not self.deadline:
            self.marks, self.deadline = marks, now + patience
        elif now >= self.deadline:
            raise TimeoutError(
                f"process {os.getpid()} waited {patience:g} s to {self.purpose}, but another process holds the "
                f"lock {self.sidecars.lock} and makes no progress; end that process and call again"
            )
        self.looked = now

    def _marks(self) -> set[tuple[str, int, int]]:
        marks = set()
        for path in self.sidecars.leftovers():
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                marks.add((path, status.st_size, status.st_mtime_ns))
        return marks


def _acquired(path: str, patience: _Patience) -> Release:
    seen = _SeenSoftLock()
    pause = 0.01
    while True:
        try:
            release = _try_system_lock(path)
        except _NoLocksHere as error:
            _say_once(path, error)
            release = _try_soft_lock(path, seen)
        if release is not None:
            return release
        patience.look()
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)


def _try_system_lock(path: str) -> Release | None:
    """The lock's release, or None while somebody else holds it."""
    descriptor = _opened(path)
    try:
        if not _lock_now(descriptor) or not _is_named(path, descriptor):
            os.close(descriptor)
            return None
    except BaseException:
        os.close(descriptor)
        raise

    def release() -> None:
        # Removed while it is held: whoever opened it in between sees that its name is gone and opens a new one.
        if os.name == "posix":
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        os.close(descriptor)

    return release


def _opened(path: str) -> int:
    """The lock file, made where it is missing; never what a link of that name leads to."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o666)
            _open_to_the_group(descriptor, path)
        except FileExistsError:
            if os.path.islink(path):  # noqa: PTH114
                pathlib.Path(path).unlink(missing_ok=True)
                continue
            opened = _opened_existing(path)
            if opened is None:
                continue
            descriptor = opened
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} must be the lock of a download, but is no file; remove it")


def _opened_existing(path: str) -> int | None:
    """None where it has just been removed. Another user's lock can often only be read; that is enough for flock."""
    for access in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, access | _OPEN)
        except FileNotFoundError:
            return None
        except PermissionError:
            if access == os.O_RDONLY:
                raise
    return None


def _open_to_the_group(descriptor: int, path: str) -> None:
    """Where a group shares the folder, all of it may lock, whatever the umask of whoever came first."""
    shared = os.stat(os.path.dirname(path) or ".").st_mode & 0o022
    if shared and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o777 | shared | shared << 1)


def _lock_now(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except NameError as error:
        raise _NoLocksHere("no fcntl") from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocksHere(str(error)) from error
        if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


def _is_named(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _say_once(path: str, error: Exception) -> None:
    folder = os.path.dirname(path)
    if folder not in _soft_locks_said:
        _soft_locks_said.add(folder)
        warn_caller(
            f"the file system of {folder or '.'} has no locks ({error}); a lock file that counts for "
            f"{SOFT_LIFETIME:g} s after its last renewal is used instead"
        )


@dataclass
class _SeenSoftLock:
    """What a waiter saw of somebody's lock file, by its own clock: those of several machines differ."""

    state: tuple[int, int] | None = None
    since: float = 0.0

    def is_stale(self, path: str) -> bool:
        """Whether the holder is dead, or has not renewed its lock for SOFT_LIFETIME."""
        try:
            status = os.lstat(path)
            machine, process, started = pathlib.Path(path).read_text(encoding="ascii").split("-")[:3]
            if machine == this_machine() and not is_alive(int(process, 16), int(started, 16)):
                return True
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            pass  # being written, or not ours: its age decides
        now, state = time.monotonic(), (status.st_ino, status.st_mtime_ns)
        if state != self.state:
            self.state, self.since = state, now
        return now - self.since > SOFT_LIFETIME


def _try_soft_lock(lock: str, seen: _SeenSoftLock) -> Release | None:
    path = f"{lock}-soft"
    token = f"{this_machine()}-{process_token()}-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o666)
    except FileExistsError:
        if seen.is_stale(path):
            # Only one of several waiters can rename it.
            away = f"{path}-{secrets.token_hex(8)}.part"
            with contextlib.suppress(OSError):
                os.rename(path, away)
                os.unlink(away)  # noqa: PTH108
        return None
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, ended), daemon=True, name="torchkutils-lock")
    thread.start()

    def release() -> None:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            os.unlink(lock)  # noqa: PTH108 - empty, and of no use here
        with contextlib.suppress(OSError):
            if pathlib.Path(path).read_text(encoding="ascii") == token:
                os.unlink(path)  # noqa: PTH108

    return release


def _renew(path: str, ended: threading.Event) -> None:
    while not ended.wait(SOFT_LIFETIME / 6):
        with contextlib.suppress(OSError):
            os.utime(path)
