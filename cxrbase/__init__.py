"""Self-supervised pretraining of Vision Transformers on chest radiographs."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxrbase.backbones import load_encoder

try:
    __version__ = version("cxrbase")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "load_encoder"]

_LAZY = {"load_encoder": "cxrbase.backbones"}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `cxrbase --help` does without it.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
