"""Errors that users can act on: they say what was wrong, what was found and what to do."""

import errno
from functools import partial
from typing import Any

# No room, no permission, too many files or a device that fails: an image cannot be blamed for these.
_OUT_OF_REACH = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
})  # fmt: skip


def _out_of_reach(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _OUT_OF_REACH


class CXRBaseError(Exception):
    """A problem with what the user gave us; the command line shows it as one sentence."""


class ConfigError(CXRBaseError):
    """Settings that cannot work together, or do not fit the checkpoint or data they are used with."""


class CollapseError(CXRBaseError):
    """A run whose network tells no image from another any more, stopped as `collapse.on_collapse` asks for."""


class ManifestError(CXRBaseError):
    """A manifest or image folder that is missing, empty, malformed or leaks patients between splits."""


class EncoderError(CXRBaseError):
    """An encoder file that is missing, damaged or of another shape than it says."""


class DecodeError(CXRBaseError):
    """One image that could not be read.

    Args:
        source: Data set or reader that the image belongs to, "" when unknown.
        key: Path or name of the image.
        reason: What is wrong with it, as half a sentence.
    """

    def __init__(self, source: str, key: str = "", reason: str = "") -> None:
        # A loader's worker process hands over the finished message alone.
        super().__init__(f"cannot read {key}{f' ({source})' if source else ''}: {reason}" if key else source)
        self.source, self.key, self.reason = source, key, reason

    @property
    def unreachable(self) -> bool:
        """Whether the operating system failed and not the file, which a later try may find in order."""
        cause = self.__cause__
        return (isinstance(cause, OSError) and cause.errno is not None) or self.may_pass

    @property
    def may_pass(self) -> bool:
        """Whether the operating system failed in a way that may be over in a moment, which a missing file is not."""
        # What a reader puts into words of its own may still be that its scratch file found no room.
        cause = self.__cause__
        while cause is not None and not _out_of_reach(cause):
            cause = cause.__cause__
        return cause is not None

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str, str]]:
        # The default would lose the three parts.
        return type(self), (self.source, self.key, self.reason)


class ShardError(CXRBaseError):
    """Packed images, or a place for them, that are missing, damaged, full, forbidden or of other settings."""


class CorruptError(ShardError):
    """A packed image that cannot be read.

    Args:
        message: What is wrong, with the names of image and shard.
        reason: Key of `cxrbase.data.quarantine.REASONS`.
        whole_shard: Whether no other image of its shard can be read either.
    """

    def __init__(self, message: str, *, reason: str = "damaged", whole_shard: bool = False) -> None:
        super().__init__(message)
        self.reason, self.whole_shard = reason, whole_shard

    @property
    def may_pass(self) -> bool:
        """Whether the operating system failed in a way that may be over in a moment; a fetch was tried again before."""
        return _out_of_reach(self.__cause__)

    def __reduce__(self) -> Any:
        # The default would lose what is not the message.
        return partial(type(self), reason=self.reason, whole_shard=self.whole_shard), self.args


class WorkerError(CXRBaseError):
    """A worker process of a loader that ended before it was told to."""


class ModelError(CXRBaseError):
    """A model folder that is missing, damaged or of another shape than it says."""
