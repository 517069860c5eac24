"""Errors that a user can act on: what was wrong, what was got, what to do."""


class CXRBaseError(Exception):
    """A problem with what the user gave us; the command line shows it as one sentence."""


class ConfigError(CXRBaseError):
    """Settings that cannot work together, or do not fit the checkpoint or data they are used with."""


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

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str, str]]:
        # The default would lose the three parts.
        return type(self), (self.source, self.key, self.reason)


class ShardError(CXRBaseError):
    """Packed images, or a place for them, that are missing, damaged, full, forbidden or of other settings."""
