"""Configuration files: UTF-8 YAML of bounded size and depth that holds each setting once, without aliases and tags."""

from pathlib import Path
from typing import Any

import yaml

from cxrbase.errors import ConfigError

LARGEST = 100_000  # bytes; those of experiments/ have less than 2,000
DEEPEST = 50  # sections within sections; parsers and constructors call themselves for each


class RefusedYAML(yaml.YAMLError):
    """YAML that is well formed, and that would fill the memory, run code, or leave out what it says first."""


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a file of settings.

    Args:
        path: A YAML file.

    Raises:
        ConfigError: The file is missing, too large, no UTF-8, no YAML, has an alias, a tag or a name twice, or holds no
            settings.
    """
    text = read_text(path)
    try:
        refuse_unbounded(text)
        content = yaml.safe_load(text)
    except RefusedYAML as error:
        raise ConfigError(f"{path} {error}") from error
    # A date such as 2024-13-01 and a number of 5,000 digits are ValueErrors.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings: give lines of `name: value`, as the files of experiments/ have")
    return content


def read_value(option: str, text: str) -> Any:
    """A value that was given to an option, as YAML; ConfigError where it is none.

    Args:
        option: Its name, for the message.
        text: The value.
    """
    try:
        refuse_unbounded(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        why = f"it {error}" if isinstance(error, RefusedYAML) else getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{option} must be a value in YAML, got {text!r}: put text into quotes ({why})") from error


def read_text(path: str | Path) -> str:
    """The text of a configuration file; ConfigError where it cannot be read, is too large or no UTF-8."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: give an existing YAML file ({error})") from error
    if len(data) > LARGEST:
        raise ConfigError(f"{path} has more than {LARGEST:,} bytes: it is not a configuration file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from error


def refuse_unbounded(text: str) -> None:
    """Makes no value; raises RefusedYAML, half a sentence, for too much of it, an alias, a tag, or a name given twice.

    An alias is what makes a value hold itself, or a few lines stand for billions of values.
    """
    if len(text) > LARGEST:
        raise RefusedYAML(f"has more than {LARGEST:,} characters: it is not a configuration file")
    depth = 0
    # The one in C is ten times as fast; not every build of PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise RefusedYAML(f"refers to a value by the alias *{event.anchor}: write the value out in its place")
        if tag := getattr(event, "tag", None):
            raise RefusedYAML(f"has the tag {tag}: write plain values without tags")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RefusedYAML(f"has more than {DEEPEST} levels: it is not a configuration file")
    _refuse_twice(yaml.compose(text, Loader=loader))


def _refuse_twice(node: yaml.Node | None) -> None:
    """Refuses a name that a section gives twice, of which YAML keeps the last in silence."""
    if not isinstance(node, yaml.CollectionNode):
        return
    names: set[str] = set()
    for part in node.value:
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        if isinstance(key, yaml.ScalarNode):
            if key.value in names:
                line = key.start_mark.line + 1
                raise RefusedYAML(f"gives {key.value} again in line {line}, beside the one above: keep one of the two")
            names.add(key.value)
        _refuse_twice(value)
