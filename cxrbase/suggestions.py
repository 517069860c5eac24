"""Argument parsers that answer a mistyped word with the one that was probably meant."""

import difflib
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from cxrbase.config_files import read_config, refuse_unbounded
from cxrbase.errors import ConfigError

# A class that a module lacks, and the values that an option has, in the words of jsonargparse.
_NO_NAME = re.compile(r"class_path '([\w.]+)': module '([\w.]+)' has no attribute '(\w+)'")
_LITERALS = re.compile(r"Literal\[([^\]]*)\]")
_GIVEN = re.compile(r"(?:Given|Got) value: (.+?)(?= - |$)")
# What else an option takes, if it takes more than numbers and one of some values.
_FURTHER = re.compile(r"Expected an? (?!typing\.Literal|int|float|None)")
_CHOICES = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
# The keys that lead to a value, from outside in.
_KEY = re.compile(r"(?:^|\s)([\w.]+): ")
_OPTION = re.compile(r"--([\w.-]+)|[Oo]ption '([\w.]+)'|[Kk]ey '([\w.]+)'")
_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    refuse_unbounded(text)
    return _load_yaml(text)


# Every value of a command line is YAML too, and may name a further file.
set_loader("yaml", _load, (yaml.YAMLError,))


class SuggestingParser(ArgumentParser):
    """A parser whose errors are one sentence with what was probably meant, and which takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # --trainer.max_epoch would be taken for max_epochs in silence, and a typo for what it abbreviates.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Reads a file of --config, which ends in a ConfigError where `read_config` refuses it."""
        # A pipe can be read once.
        if Path(path).is_file():
            self._refuse_no_sections(path, read_config(path))
        parsed: Namespace = super().parse_path(path, *args, **kwargs)
        return parsed

    def _refuse_no_sections(self, path: Any, settings: dict[str, Any]) -> None:
        """Raises a ConfigError where a section holds no option; text may name a file that does, some take lists."""
        sections = {action.dest.split(".")[0] for action in self._actions if "." in action.dest}
        for name, value in settings.items():
            if name in sections and not isinstance(value, dict | list | str):
                held = "nothing" if value is None else repr(value)
                raise ConfigError(f"{path}: {name} is a section of settings, put `name: value` below it; it has {held}")

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Says it in one line in place of every option there is."""
        if not self.exit_on_error:
            super().error(message, *args, **kwargs)
        sys.stderr.write(f"cxrbase: error: {self.answer(message)}\n")
        raise SystemExit(2)

    def answer(self, message: str) -> str:
        """The sentence for a message of the parser."""
        text = plain(message)
        return no_class(text) or with_value(text) or with_choice(text) or self._with_option(text)

    def known_options(self) -> dict[str, str]:
        """Every option by its last word."""
        below = [
            parser for action in self._actions if isinstance(action.choices, dict) for parser in action.choices.values()
        ]
        actions = [action for parser in (self, *below) for action in parser._actions]
        return {action.dest.split(".")[-1]: action.dest for action in actions}

    def _with_option(self, message: str) -> str:
        known = self.known_options()
        for groups in _OPTION.findall(message):
            word = next(filter(None, groups)).split(".")[-1]
            near = difflib.get_close_matches(word.replace("-", "_"), known, n=1)
            if near and word not in known:
                return f"{message}; did you mean {known[near[0]]}?"
        return message


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


def no_class(message: str) -> str | None:
    """An answer that names the nearest class of the module, where the message is about one that it lacks; else None."""
    found = _NO_NAME.search(message)
    if found is None:
        return None
    path, module, name = found.groups()
    # It was imported to find that the name is not in it.
    near = difflib.get_close_matches(name, [there for there in dir(sys.modules.get(module)) if there[0].isupper()], n=1)
    meant = f"; did you mean {module}.{near[0]}?" if near else ""
    return f"{message.split(':')[0]}: there is no {path!r}{meant}"


def with_value(message: str) -> str | None:
    """The message with the nearest of the values that an option takes, where it lists any; else None."""
    values = [value.strip(" '\"") for group in _LITERALS.findall(message) for value in group.split(",")]
    given = _GIVEN.search(message)
    if not values or given is None or _FURTHER.search(message):
        return None
    value = given[1].strip("'\".")
    near = difflib.get_close_matches(value, values, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    option = ".".join(_KEY.findall(message[: message.index("Literal[")]))
    return f"{option}: it takes {', '.join(dict.fromkeys(values))}, not {value!r}{meant}"


def with_choice(message: str) -> str | None:
    """The message with the nearest of the choices that it lists, where it lists any; else None."""
    found = _CHOICES.search(message)
    if found is None:
        return None
    near = difflib.get_close_matches(found[1], re.findall(r"'([^']*)'", found[2]), n=1)
    return f"{message}; did you mean {near[0]}?" if near else message
