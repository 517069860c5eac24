"""The command line: dispatches verbs, and answers a user's mistake with one sentence and a non-zero exit code."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from cxrbase import __version__
from cxrbase.errors import CXRBaseError

_USAGE = """usage: cxrbase <command> [options]

Self-supervised pretraining of Vision Transformers on chest radiographs.

commands:
  fit       pretrain from YAML files:
            cxrbase fit --config experiments/base.yaml --config experiments/objective/mae.yaml \\
                        --config experiments/size/tiny.yaml --config experiments/data/phantom.yaml
  phantom   make the embedded data set of simulated radiographs, with a contact sheet
  sources   list the public data sets that are known, or write the manifest of a downloaded one
  audit     find copies, leaks between splits, labels that the source tells, and odd images in manifests

options:
  -h, --help     this text; `cxrbase <command> --help` for a command's options
  --version      the version

Set CXRBASE_DEBUG=1 to see the full traceback of an error.
"""

# What to do after Ctrl-C.
_STOPPED = {"fit": "start again with --ckpt_path=<run folder> to go on"}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: Words after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 a problem that the message names, 2 a wrong command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"cxrbase {__version__}\n")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "fit": _fit,
        "phantom": _phantom,
        "sources": _sources,
        "audit": _audit,
    }
    if words[0] not in commands:
        return _complain(f"no command {words[0]!r}; there are {', '.join(commands)}", code=2)
    _show_messages()
    return _guarded(commands[words[0]], words[1:], stopped=_STOPPED.get(words[0], "run it again to start over"))


def _show_messages() -> None:
    # Ours only: Lightning shows its own, and would show them twice through the root logger.
    logger = logging.getLogger("cxrbase")
    logger.handlers[:] = [logging.StreamHandler()]
    logger.setLevel(logging.INFO)


def _guarded(command: Callable[[list[str]], int], words: list[str], *, stopped: str) -> int:
    if os.environ.get("CXRBASE_DEBUG"):
        return command(words)
    try:
        return command(words)
    except (CXRBaseError, ValueError, OSError) as error:
        return _complain(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return _complain(f"stopped; {stopped}", code=130)


def _complain(message: str, *, code: int = 1) -> int:
    sys.stderr.write(f"cxrbase: error: {message}\n")
    return code


def _fit(words: list[str]) -> int:
    from cxrbase.training_cli import fit

    return fit(words)


def _phantom(words: list[str]) -> int:
    from cxrbase.phantom_cli import phantom

    return phantom(words)


def _sources(words: list[str]) -> int:
    from cxrbase.sources_cli import sources

    return sources(words)


def _audit(words: list[str]) -> int:
    from cxrbase.audit_cli import audit

    return audit(words)
