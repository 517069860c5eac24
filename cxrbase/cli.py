"""The command line: runs subcommands, and answers user errors with one sentence and a non-zero exit code."""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from cxrbase import __version__
from cxrbase.errors import CXRBaseError

_USAGE = """usage: cxrbase <command> [options]

Self-supervised pretraining of Vision Transformers on chest radiographs.

commands:
{commands}

options:
  -h, --help     this text; `cxrbase <command> --help` for a command's options
  --version      the version

Set CXRBASE_DEBUG=1 to see the full traceback of an error.
"""


class _Command(NamedTuple):
    """One verb: `cxrbase.<module>.<function>(words)` returns the exit code; imported only when it is asked for."""

    module: str
    function: str
    help: str
    stopped: str = "run it again to start over"  # what to do after Ctrl-C


_PARTIAL = "--out holds only a part: remove it and run the command again"

_COMMANDS = {
    "fit": _Command(
        "fit_cli",
        "fit",
        "pretrain from YAML files, or fit an encoder to a task:\n"
        "cxrbase fit --config experiments/base.yaml --config experiments/objective/mae.yaml \\\n"
        "            --config experiments/size/tiny.yaml --config experiments/data/phantom.yaml \\\n"
        "            --config experiments/recipe/mae_tiny.yaml\n"
        "cxrbase fit --config experiments/task/pneumonia.yaml --encoder runs/<run>",
        "start again with --ckpt_path=<run folder> to go on",
    ),
    "evaluate": _Command(
        "evaluate_cli",
        "evaluate",
        "score frozen encoders on tasks:\n"
        "cxrbase evaluate --encoder runs/mae --encoder runs/dino --config experiments/task/phantom.yaml",
        "run it again to go on",
    ),
    "phantom": _Command("phantom_cli", "phantom", "make the embedded data set of simulated radiographs"),
    "sources": _Command("sources_cli", "sources", "list the known public data sets, or write the manifest of one"),
    "compare": _Command(
        "compare_cli",
        "compare",
        "pretrain a grid of objectives at equal compute and say which is best",
        "run it again to do what is missing",
    ),
    "paper": _Command(
        "paper_cli",
        "paper",
        "figures 2, 3 and 4 of the paper from the encoders and data that are there",
        "run it again to do what is missing",
    ),
    "pack": _Command(
        "pack_cli",
        "pack",
        "write originals of any source into shards for training",
        "run the same command again to go on where it stopped",
    ),
    "audit": _Command("audit_cli", "audit", "find copies, leaks, labels given away by the source, and odd images"),
    "export": _Command("export_cli", "export", "write an encoder for timm, transformers, onnxruntime or torch"),
    "explain": _Command(
        "explain_cli", "explain", "where a model or an encoder looks, as pictures over the image", _PARTIAL
    ),
    "predict": _Command(
        "predict_cli",
        "predict",
        "calibrated probabilities of a fine-tuned model, with warnings",
        "<out>.part holds the rows so far: remove it and run the command again",
    ),
    "demo": _Command("demo_cli", "demo", "a page on this machine to try a model on one radiograph", "start it again"),
    "embed": _Command("embed_cli", "embed", "features of images as a Parquet table", "run it again to go on"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: Words after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 a problem that the message names, 2 a wrong command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        _tell(_USAGE.format(commands=_listed()))
        return 0 if words else 2
    if words[0] == "--version":
        _tell(f"cxrbase {__version__}\n")
        return 0
    if words[0] not in _COMMANDS:
        near = difflib.get_close_matches(words[0], _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_COMMANDS)}"
        return _complain(f"no command {words[0]!r}; {hint}", code=2)
    _show_messages()
    return _guarded(_COMMANDS[words[0]], words[1:])


def _tell(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read it has seen enough, as in `cxrbase --help | head -1`; Python would try once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _listed() -> str:
    """The commands with their help, aligned."""
    width = max(map(len, _COMMANDS)) + 2
    return "\n".join(
        f"  {name:{width}}{command.help.replace(chr(10), chr(10) + ' ' * (width + 2))}"
        for name, command in _COMMANDS.items()
    )


def _show_messages() -> None:
    # Ours only: Lightning shows its own, and would show them twice through the root logger.
    logger = logging.getLogger("cxrbase")
    logger.handlers[:] = [logging.StreamHandler()]
    logger.setLevel(logging.INFO)


def _guarded(command: _Command, words: list[str]) -> int:
    run = _run if os.environ.get("CXRBASE_DEBUG") else _run_quietly
    return run(command, words)


def _run(command: _Command, words: list[str]) -> int:
    module = importlib.import_module(f"cxrbase.{command.module}")
    return int(getattr(module, command.function)(words))


def _run_quietly(command: _Command, words: list[str]) -> int:
    try:
        return _run(command, words)
    except (CXRBaseError, ValueError, OSError) as error:
        return _complain(_in_a_sentence(str(error)))
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        return _complain(
            "out of memory: take smaller batches (--data.batch_size, --finetune.batch_size) or images "
            "(--data.canvas_size, --image_size of cxrbase phantom), or in pretraining set "
            f"--model.recompute=true ({_in_a_sentence(str(error))[:200]})"
        )
    except KeyboardInterrupt:
        return _complain(f"stopped; {command.stopped}", code=130)


def _of_memory(error: Exception) -> bool:
    # By name, because naming torch's class would import it for every command.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _in_a_sentence(message: str) -> str:
    if "Does not validate against" in message:
        # Of an option's class that refused its values, and of every other type that the option might have had.
        from cxrbase.suggestions import plain

        message = plain(message)
    return " ".join(message.split())


def _complain(message: str, *, code: int = 1) -> int:
    sys.stderr.write(f"cxrbase: error: {message}\n")
    return code
