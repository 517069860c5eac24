"""The names of the maps that explain a network; without torch, as the help of a command lists them."""

from typing import Literal, get_args

from cxrbase.errors import ConfigError

Method = Literal["rollout", "gradient", "relevance", "occlusion"]
METHODS: tuple[Method, ...] = get_args(Method)


def check_method(method: str) -> None:
    """Raises ConfigError where there is no such method."""
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
