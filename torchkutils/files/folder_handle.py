"""A folder that is held open: names below it are reached from its handle, step by step, and no step follows a link.

A path that has been checked may lead elsewhere a moment later, when somebody exchanges one of its folders for a
link. A handle belongs to the folder itself. So what was decided for a member is done to that member.

Where the system knows no such handles (Windows), paths are used, and each folder on the way is looked at before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from types import TracebackType

HAS_HANDLES = {os.open, os.stat, os.rename, os.mkdir, os.unlink, os.rmdir, os.symlink} <= os.supports_dir_fd
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
# A pipe of that name must not make the call wait for a writer.
READ = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class FolderHandle:
    """An open folder.

    Args:
        path: The folder; links on the way to it are followed, since the caller named it.
        private: Nobody else can change anything below it, so names need no walk.
        within: The open folder that `path` is a name in; then `path` itself must not be a link.

    Raises:
        OSError: There is no such folder.
    """

    def __init__(self, path: str, *, private: bool = False, within: FolderHandle | None = None) -> None:
        self.path: str = (path or ".") if within is None else f"{within.path}/{path}"
        self._private = private
        self._way: list[tuple[str, int]] = []
        self._near: tuple[str, int] | None = None
        self._handle: int | None = None
        if HAS_HANDLES:
            if within is None:
                self._handle = os.open(self.path, _FOLDER)
            else:
                self._handle = os.open(path, _FOLDER | _NO_LINK, dir_fd=within._handle)
        elif within is not None and not _is_folder(os.lstat(self.path)):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder", self.path)

    def __enter__(self) -> FolderHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(0)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def descriptor(self) -> int | None:
        """The folder's own descriptor, None where the system has none."""
        return self._handle

    def _leave(self, depth: int) -> None:
        self._near = None
        while len(self._way) > depth:
            os.close(self._way.pop()[1])

    def _reach(self, name: str) -> tuple[str, int | None]:
        """The last part of a name and the handle of its folder; or a path, where there are no handles.

        Raises:
            NotADirectoryError: A folder on the way is a link or a file.
            FileNotFoundError: A folder on the way is missing.
        """
        if self._handle is None:
            if not self._private:
                self._look_at_each(name)
            return f"{self.path}/{name}", None
        if self._private or "/" not in name:
            return name, self._handle
        above, _, last = name.rpartition("/")
        if self._near is not None and self._near[0] == above:
            return last, self._near[1]
        self._near = (above, self._walk(above.split("/"), name))
        return last, self._near[1]

    def _walk(self, folders: list[str], name: str) -> int:
        """The handle of the last one of nested folders; what an earlier name had in common stays open."""
        assert self._handle is not None
        depth = 0
        while depth < min(len(folders), len(self._way)) and self._way[depth][0] == folders[depth]:
            depth += 1
        self._leave(depth)
        for folder in folders[depth:]:
            above = self._way[-1][1] if self._way else self._handle
            try:
                self._way.append((folder, os.open(folder, _FOLDER | _NO_LINK, dir_fd=above)))
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise NotADirectoryError(errno.ENOTDIR, "it is a link", f"{self.path}/{name}") from error
                raise
        return self._way[-1][1]

    def _look_at_each(self, name: str) -> None:
        path = self.path
        for folder in name.split("/")[:-1]:
            path = f"{path}/{folder}"
            if not _is_folder(os.lstat(path)):
                raise NotADirectoryError(errno.ENOTDIR, "it is no folder", path)

    def status(self, name: str) -> os.stat_result | None:
        """The status of what has that name, of a link itself; None where nothing has it or no folder leads to it."""
        try:
            last, handle = self._reach(name)
            return os.stat(last, dir_fd=handle, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def statuses(self, names: Iterable[str]) -> Iterator[os.stat_result | None]:
        """As `status` for many names, quickly where those of one folder follow each other.

        No other method may be called before the last one is taken.
        """
        stat_of, near, handle = os.stat, "/", None
        for name in names:
            above, _, last = name.rpartition("/")
            status = None
            try:
                if above != near or handle is None:
                    last, handle = self._reach(name)
                    near = above
                status = stat_of(last, dir_fd=handle, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                near = "/"
            yield status

    def open(self, name: str, flags: int = READ, mode: int = 0o666) -> int:
        """A descriptor of a file; never what a link leads to."""
        last, handle = self._reach(name)
        return os.open(last, flags, mode, dir_fd=handle)

    def read_link(self, name: str) -> str:
        """Where the link of that name leads."""
        last, handle = self._reach(name)
        return os.readlink(last, dir_fd=handle)

    def make_folder(self, name: str, mode: int = 0o777) -> None:
        """Make one folder; the folder above it must be there."""
        last, handle = self._reach(name)
        os.mkdir(last, mode, dir_fd=handle)

    def make_link(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        last, handle = self._reach(name)
        os.symlink(target, last, dir_fd=handle)

    def remove(self, name: str) -> None:
        """Remove a file or a link."""
        last, handle = self._reach(name)
        os.unlink(last, dir_fd=handle)

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder."""
        last, handle = self._reach(name)
        # A handle that is kept open on the way would belong to a folder without a name.
        self._leave(name.count("/"))
        os.rmdir(last, dir_fd=handle)

    def set_time(self, name: str, modified: float) -> None:
        """Set the time of change, where the system and the file system can."""
        last, handle = self._reach(name)
        with contextlib.suppress(OSError, OverflowError, ValueError, NotImplementedError):
            os.utime(last, (modified, modified), dir_fd=handle, follow_symlinks=False)

    def rename(self, name: str, other: FolderHandle, new: str) -> None:
        """Move a file, link or folder to a name below another handle; a file there is replaced.

        Within one handle, neither name may hold a `/`: the second walk would close what the first one found.
        """
        source, source_handle = self._reach(name)
        target, target_handle = other._reach(new)
        os.rename(source, target, src_dir_fd=source_handle, dst_dir_fd=target_handle)


def _is_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode)
