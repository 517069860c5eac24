"""What the command line answers to words that it does not take: one sentence, with what was probably meant."""

import difflib
import inspect
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from cxrbase import objectives
from cxrbase.objectives import DINO, MAE, SimCLR
from cxrbase.views import RandomViews

_OBJECTIVES = {kind.__name__.lower(): kind.__name__ for kind in (MAE, DINO, SimCLR)}
# What jsonargparse says of a name under model.objective that it cannot import.
_NO_CLASS = re.compile(r"Expected a path but (\S+) either|class_path='([^']+)'|dot import path string: (\S+)")


class SuggestingParser(LightningArgumentParser):
    """A parser that answers a mistyped option by the one that was probably meant, and takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # --trainer.max_epoch would be taken for max_epochs in silence, and a typo for what it abbreviates.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Says it in one line in place of every option there is."""
        if not self.exit_on_error:
            super().error(message, *args, **kwargs)
        text = wrong_objective(message) or self._with_suggestion(plain(message))
        sys.stderr.write(f"cxrbase: error: {text}\n")
        raise SystemExit(2)

    def _with_suggestion(self, message: str) -> str:
        wrong = re.findall(r"--([\w.]+)|[Oo]ption '([\w.]+)'|[Kk]ey '([\w.]+)'", message)
        known = self._known_options()
        for word in (next(filter(None, groups)).split(".")[-1] for groups in wrong):
            near = difflib.get_close_matches(word, known, n=1)
            if near and word not in known:
                return f"{message}; did you mean {known[near[0]]}?"
        return message

    def _known_options(self) -> dict[str, str]:
        """Every option by its last word."""
        below = [
            parser for action in self._actions if isinstance(action.choices, dict) for parser in action.choices.values()
        ]
        actions = [action for parser in (self, *below) for action in parser._actions]
        names = {action.dest.split(".")[-1]: action.dest for action in actions}
        for prefix, kinds in {
            "model.objective.init_args": (MAE, DINO, SimCLR),
            "data.views.init_args": (RandomViews,),
        }.items():
            for kind in kinds:
                for name in list(inspect.signature(kind).parameters):
                    names.setdefault(name, f"{prefix}.{name}")
        return names


def plain(message: str) -> str:
    """The parser's message in one line, without its list of types and Python's way to write them."""
    message = re.sub(r"Does not validate against any of the Union subtypes.*?Errors:", "", message, flags=re.DOTALL)
    message = re.sub(r"-\s*Expected an? <class 'NoneType'>", "", message)
    message = re.sub(r"Given value: \S*(?:Namespace|NestedArg)\(.*", "", message, flags=re.DOTALL)
    message = re.sub(r"Type collections\.abc\.Callable\[.*? expects a function or a callable class: ", "", message)
    message = re.sub(r"\. Got value: Namespace\(class_path='([\w.]+)'.*", r" (\1)", message)
    message = re.sub(r"Given value type: \S+ \S+", "", message)
    message = re.sub(r'Parser key "([\w.]+)":', r"\1:", message)
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    return " ".join(message.split()).rstrip(".")


def wrong_objective(message: str) -> str | None:
    """An answer that lists the objectives, where the message is about a class that is not one; else None."""
    found = _NO_CLASS.search(message)
    if 'Parser key "model.objective"' not in message or found is None:
        return None
    name = next(filter(None, found.groups()))
    if name.split(".")[-1] in _OBJECTIVES.values():
        return None
    near = difflib.get_close_matches(name.split(".")[-1].lower(), _OBJECTIVES, n=1)
    meant = f"; did you mean {_OBJECTIVES[near[0]]}?" if near else ""
    there = ", ".join(_OBJECTIVES.values())
    return f"no objective {name!r}: there are {there} in {objectives.__name__}, and yours by its import path{meant}"
