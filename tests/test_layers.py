"""What the modules may import, what they must run without, and what no file may hold; see docs/architecture.md."""

import ast
import json
import math
import re
import subprocess
import sys
import textwrap
import tomllib
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

from commands import command

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "cxrbase"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MAX_LINES = 300
# Imported inside the function that needs them, or by the tests alone.
HEAVY = {"SimpleITK", "matplotlib", "albumentations", "sklearn", "transformers"}
FENCES = [
    ("data/", ("cxrbase.objectives", "cxrbase.pretraining", "cxrbase.evaluation")),
    ("evaluation/", ("cxrbase.objectives", "cxrbase.pretraining")),
    ("objectives/", ("lightning", "pytorch_lightning", "cxrbase.data")),
]

# Wrapping the finders hides a library as if it were not installed: libraries that ask beforehand, as torchmetrics
# does by find_spec and by its metadata, hear that it is absent, and those that import it get an ImportError.
HIDING = """import sys

ABSENT = {"simpleitk", "matplotlib", "albumentations"}

class Lacking:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0].lower() in ABSENT else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        found = getattr(self.finder, "find_distributions", lambda context: ())(context)
        return (one for one in found if one.name.lower() not in ABSENT)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Lacking(finder) for finder in sys.meta_path]
for name in ("SimpleITK", "matplotlib", "albumentations"):
    try:
        __import__(name)
    except ImportError:
        pass
    else:
        raise SystemExit(f"{name} is not hidden")
"""


@cache
def tree(file):
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"), file)


def module_name(file):
    return ".".join(["cxrbase", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_name(file): file for file in FILES}


def imports_of(node):
    """Modules named by the import statements below a node, those inside functions included."""
    found = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"line {statement.lineno} imports relatively"
            for alias in statement.names:
                below = f"{statement.module}.{alias.name}"
                found.add(below if below in MODULES else statement.module)
    return found


@cache
def floors():
    """Patterns of each floor, from the table of docs/architecture.md."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE)
    found: dict[int, list[str]] = {}
    for number, modules in rows:
        found.setdefault(int(number), []).extend(re.findall(r"`([^`]+\.py)`", modules))
    return found


@cache
def floor_of(file):
    # A name in full goes before a pattern. fnmatch lets * cross a slash, which no pattern here is meant to do.
    named = [number for number, patterns in floors().items() if file in patterns]
    return named or [
        number
        for number, patterns in floors().items()
        if any(fnmatch(file, pattern) and file.count("/") == pattern.count("/") for pattern in patterns)
    ]


def is_within(name, room):
    return name == room or name.startswith(room + ".")


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_names_every_module_once_and_nothing_that_is_gone():
    assert sorted(floors()) == [0, 1, 2, 3, 4]
    assert {file: found for file in FILES if len(found := floor_of(file)) != 1} == {}
    patterns = [pattern for row in floors().values() for pattern in row]
    assert [pattern for pattern in patterns if not any(fnmatch(file, pattern) for file in FILES)] == []


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_from_its_own_or_lower_floors(file):
    (own,) = floor_of(file)
    inside = {name for name in imports_of(tree(file)) if is_within(name, "cxrbase")}
    assert inside <= set(MODULES)
    assert {name for name in inside if floor_of(MODULES[name])[0] > own} == set()


@pytest.mark.parametrize(("room", "forbidden"), FENCES, ids=[room for room, _ in FENCES])
def test_the_fences_hold(room, forbidden):
    files = [file for file in FILES if file.startswith(room)]
    assert files
    for file in files:
        crossing = {name for name in imports_of(tree(file)) if any(is_within(name, other) for other in forbidden)}
        assert not crossing, f"{file} imports {crossing}"


def test_the_import_rules_see_every_form_of_import():
    code = "import cxrbase.data.canvas\ndef f():\n    from cxrbase.data import stream\n    from cxrbase.errors import X"
    assert imports_of(ast.parse(code)) == {"cxrbase.data.canvas", "cxrbase.data.stream", "cxrbase.errors"}


def at_import(node):
    """Import statements that run when a module is loaded: not in functions, not for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


def test_no_module_loads_a_heavy_library_by_itself():
    for file in FILES:
        for statement in at_import(tree(file)):
            roots = {name.split(".")[0] for name in imports_of(ast.Module([statement], []))}
            assert not roots & (HEAVY | {"lightly", "cv2", "pydicom"}), f"{file}:{statement.lineno}"
        everywhere = {name.split(".")[0] for name in imports_of(tree(file))}
        # An export is checked with the program that it is for.
        mine = {"transformers"} if file == "release/export_transformers.py" else set()
        assert not (everywhere & {"sklearn", "transformers"}) - mine, f"{file} needs a library of the tests"


def test_every_library_that_is_imported_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w.-]+", need)[0].lower() for need in needs}
    sources = [tree(file) for file in FILES]
    sources += [ast.parse(path.read_text()) for path in (REPOSITORY / "tests").rglob("*.py")]
    roots = {name.split(".")[0] for source in sources for name in imports_of(source)}
    owners = {root: {name.lower() for name in names} for root, names in packages_distributions().items()}
    # What has no owner is of Python, the package, the tests or an extra that is not installed; botocore is s3fs's own.
    lacking = {root for root in roots & set(owners) - {"cxrbase", "botocore"} if not owners[root] & declared}
    assert not lacking


def test_help_loads_no_torch_objectives_no_lightning_and_training_no_heavy_library_beyond_lightnings_own():
    output = run_python(f"""
        import sys
        import cxrbase, cxrbase.cli
        print(sorted({HEAVY | {"torch", "timm", "lightning"}} & set(sys.modules)))
        import cxrbase.objectives
        print(sorted({HEAVY | {"lightning", "lightly"}} & set(sys.modules)))
        import lightning  # torchmetrics imports matplotlib and transformers where it finds them
        before = set(sys.modules)
        import cxrbase.pretraining, cxrbase.data.datamodule
        print(sorted({HEAVY} & (set(sys.modules) - before)), sorted({HEAVY - {"matplotlib", "transformers"}} & before))
    """)
    assert output.split() == ["[]"] * 4


def test_a_run_of_every_objective_needs_neither_simpleitk_nor_matplotlib_nor_albumentations(image_folder, tmp_path):
    objectives = ("mae", "dino", "simclr")
    runs = [command(name, root=image_folder, run_dir=tmp_path / name, figures=True) for name in objectives]
    output = run_python(
        HIDING
        + textwrap.dedent(f"""
        from cxrbase.cli import main
        assert [main(run) for run in {runs!r}] == [0, 0, 0]
        assert not {{name.lower() for name in sys.modules}} & ABSENT
        """)
    )
    for name in objectives:
        assert f"{name}/encoder.safetensors" in output
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["steps"] == 2
        assert math.isfinite(summary["loss_last"])
        assert (tmp_path / name / "last.ckpt").is_file()
    assert not list(tmp_path.rglob("*.png"))  # figures are what a host without matplotlib does without


def names(statement):
    return {alias.name for alias in statement.names}


def breaches(module):
    """What no module may do, as (line, what)."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "eval", "exec"):
            yield node.lineno, f"{node.func.id}()"
        elif isinstance(node, ast.keyword) and node.arg == "strict" and getattr(node.value, "value", None) is False:
            yield node.value.lineno, "strict=False"
        elif isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or getattr(kind, "id", "") in ("Exception", "BaseException") for kind in kinds):
                yield node.lineno, "except Exception"
        elif isinstance(node, ast.Import) and "pickle" in names(node):
            yield node.lineno, "import pickle"
        elif isinstance(node, ast.ImportFrom) and node.module == "pickle" and names(node) != {"UnpicklingError"}:
            yield node.lineno, "from pickle import"


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_short_and_does_nothing_that_hides_errors_or_runs_foreign_code(file):
    assert list(breaches(tree(file))) == []
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert Path(file).name not in ("utils.py", "helpers.py", "common.py")


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "eval('1')",
        "model.load_state_dict(state, strict=False)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (ValueError, Exception):\n    pass",
        "import pickle",
        "from pickle import UnpicklingError, loads",
    ],
)
def test_each_breach_is_seen(code):
    assert len(list(breaches(ast.parse(code)))) == 1


def test_the_harmless_likes_of_them_are_not():
    code = "model.eval()\nfingerprint(x)\nfrom pickle import UnpicklingError\nzip(a, b, strict=True)\n"
    assert list(breaches(ast.parse(code))) == []
