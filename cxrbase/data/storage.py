"""An output folder, local or at an fsspec URL, in which files appear complete or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cxrbase.errors import ShardError
from cxrbase.whole_files import written_whole

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Storage:
    """Reads and writes whole files below a folder.

    Args:
        url: A local folder, or an fsspec URL such as s3://bucket/folder. Options of its file system are taken from the
            environment, as fsspec does: AWS_ENDPOINT_URL, FSSPEC_S3_KEY and so on.

    Raises:
        ShardError: No file system is installed for the URL.
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec

        self.url = str(url).rstrip("/") or "/"
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise ShardError(f"cannot open {self.url}: {error}") from error
        except ValueError as error:
            raise ShardError(f"cannot open {self.url} ({error}): give a local folder or an fsspec URL") from error
        self.local = Path(self._root) if "file" in _protocols(self._fs) else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file; ShardError, with what to do, where there is no room or no permission."""
        with self._explained(f"cannot write {name} to"):
            if self.local is None:
                self._fs.pipe_file(self._at(name), data)
            else:
                _write_local(self.local / name, data)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of a file, from `start` to before `end`; ShardError where it is absent."""
        with self._explained(f"cannot read {name} in"):
            return bytes(self._fs.cat_file(self._at(name), start=start, end=end))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder below, by name, without hidden ones; empty where there is no folder."""
        with self._explained(f"cannot list {folder} in"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
        sizes = {PurePosixPath(entry["name"]).name: int(entry["size"] or 0) for entry in found}
        return {name: size for name, size in sorted(sizes.items()) if not name.startswith(".")}

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with self._explained(f"cannot look for {name} in"):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(name)))

    def remove(self, name: str) -> None:
        """Removes a file, where there is one."""
        with self._explained(f"cannot remove {name} from"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process on this machine from writing to the same local folder; released by its death."""
        if self.local is None:
            yield
            return
        import fcntl

        with self._explained("cannot write to"):
            self.local.mkdir(parents=True, exist_ok=True)
            file = (self.local / ".lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ShardError(f"another process writes to {self.url}: wait for it or give another folder") from error
            try:
                self._drop_parts(self.local)
                yield
            finally:
                # A process that was forked meanwhile would keep the lock beyond the closing of this file.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _drop_parts(self, root: Path) -> None:
        """What a killed process left half-written."""
        with self._explained("cannot clean"):
            for part in (*root.glob(".*.part"), *root.glob("*/.*.part")):
                part.unlink(missing_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except _failures() as error:
            raise ShardError(f"{what} {self.url} ({_reason(error)}): {_remedy(error)}") from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _failures() -> tuple[type[BaseException], ...]:
    """What file systems raise; that of object storage is no OSError."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return (OSError,)
    return OSError, BotoCoreError


def _reason(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


def _remedy(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return "free space or raise the quota, then run the same command again, it goes on where it stopped"
    if number in _DENIED:
        return "change its permissions or credentials, then run the same command again, it goes on where it stopped"
    if number == errno.ENOENT:
        return "give an existing place"
    return "see that the place can be reached, then run the same command again, it goes on where it stopped"
