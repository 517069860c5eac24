"""Hashes files of the package, so that what other code computed is not taken for the same."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import cxrbase


def code_hash(only: Sequence[str] = ("*",), *, without: Sequence[str] = ()) -> str:
    """SHA-256 of some of the package's files, as hex.

    Args:
        only: Patterns of paths in the package, such as `data/decode*.py`; a `*` also stands for slashes.
        without: Patterns of those that do not count.
    """
    package = Path(cxrbase.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if _any(name, only) and not _any(name, without):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
