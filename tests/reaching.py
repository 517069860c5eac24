"""Follows the import statements of the package."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cxrbase"


def reached(module: str) -> set[str]:
    """Files of the package that a module imports, or that these import, also within functions."""
    found, waiting = set(), [module]
    while waiting:
        path = PACKAGE.joinpath(*waiting.pop().split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file() or file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cxrbase"):
                waiting += [str(node.module), *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [name.name for name in node.names if name.name.startswith("cxrbase")]
    return {file.relative_to(PACKAGE).as_posix() for file in found}
