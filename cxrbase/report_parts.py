"""What reports are made of: templates without gaps, pictures inside the page, and text that cannot become markup."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any


def rendered(template: Traversable, facts: Mapping[str, Any]) -> str:
    """A page of a Jinja template, with everything escaped that it is given.

    Args:
        template: The file. Its filters are `grouped` for numbers with commas and, in Markdown, `plain` for text.
        facts: What it shows; to ask for something else is an error.
    """
    import jinja2
    import markupsafe

    # In Markdown, too, names of files must not become markup.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "plain": lambda text: markupsafe.Markup(markdown_text(text)),  # noqa: S704
        "grouped": "{:,}".format,
    }
    return environment.from_string(template.read_text(encoding="utf-8")).render(facts)


def markdown_text(text: str) -> str:
    """A line of Markdown or a cell of a table, without what a file name could use to become markup."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return "".join("\\" + sign if sign in "\\`*_[]|" else sign for sign in text)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, of cells that hold neither a bare | nor a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def png_address(png: bytes) -> str:
    """Address of a PNG file that is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
