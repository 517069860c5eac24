"""Error messages of the training commands for arguments they do not know, such as an unknown objective."""

import difflib
import inspect
import re
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from cxrbase import objectives
from cxrbase.errors import ConfigError
from cxrbase.objectives import DINO, MAE, Objective, SimCLR
from cxrbase.suggestions import SuggestingParser
from cxrbase.views import RandomViews

_OBJECTIVES = {kind.__name__.lower(): kind.__name__ for kind in (MAE, DINO, SimCLR)}
# What jsonargparse says of a name under model.objective that it cannot import.
_NO_CLASS = re.compile(r"Expected a path but (\S+) either|class_path='([^']+)'|dot import path string: (\S+)")


class TrainingParser(SuggestingParser, LightningArgumentParser):
    """Lightning's parser with the answers of this package."""

    def answer(self, message: str) -> str:
        """The sentence for a message of the parser."""
        return wrong_objective(message) or super().answer(message)

    def known_options(self) -> dict[str, str]:
        """Every option by its last word, those of objectives and views among them."""
        names = super().known_options()
        for prefix, kinds in {
            "model.objective.init_args": (MAE, DINO, SimCLR),
            "data.views.init_args": (RandomViews,),
        }.items():
            for kind in kinds:
                for name in list(inspect.signature(kind).parameters):
                    names.setdefault(name, f"{prefix}.{name}")
        return names


def refuse_no_objective(objective: Any) -> None:
    """Refuses functions, of which the parser takes any, as they would be called to find that they make no objective.

    Args:
        objective: The setting model.objective as parsed.

    Raises:
        ConfigError: It is one.
    """
    path = getattr(objective, "class_path", None)
    kind = objective if path is None else resolve_name(path)
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise ConfigError(
            f"model.objective must be a class derived from {objectives.__name__}.Objective, got {path or objective}: "
            f"there are {', '.join(_OBJECTIVES.values())} in {objectives.__name__}, and yours by its import path"
        )


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
