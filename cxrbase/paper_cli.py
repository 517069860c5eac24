"""`cxrbase paper`: figures 2, 3 and 4 of the paper from the encoders and data that are there."""

import sys

from jsonargparse import ArgumentError

from cxrbase.compare.paper_plan import Paper
from cxrbase.devices import DEVICE_HELP, device_of
from cxrbase.errors import ConfigError
from cxrbase.release.outputs import local_place
from cxrbase.suggestions import SuggestingParser


def paper(words: list[str]) -> int:
    """Runs `cxrbase paper` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase paper",
        exit_on_error=False,
        description="Draws figures 2, 3 and 4 of the paper: image quality, single diseases, and few labels against "
        "baselines with all labels. What is not there is named as missing. Run again, it does only what is missing.",
    )
    parser.add_argument("--config", action="config", help="YAML file of these options, such as experiments/paper.yaml.")
    parser.add_argument("--encoder", action="append", type=str, default=[], help=(
        "<name>=<weights> for an encoder of the file, as `cxrbase evaluate --encoder` takes them; given again with the "
        "same name it is another training seed"))  # fmt: skip
    parser.add_argument("--out", type=str, default="runs/paper", help="parent folder; output goes to <out>/<name>")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE_HELP)
    parser.add_class_arguments(Paper, as_group=False)
    try:
        given = parser.instantiate(parser.parse_args(words)).as_dict()
    except (ArgumentError, TypeError) as error:
        raise ConfigError(parser.answer(str(error))) from error
    encoders, out, device = (given.pop(name) for name in ("encoder", "out", "device"))
    given.pop("config")
    return _run(Paper(**given).with_encoders(encoders), out, str(device_of(device)))


def _run(plan: Paper, out: str, device: str) -> int:
    from cxrbase.compare.paper import paper as run

    content = run(plan, out=local_place(out), device=device)
    lines = ["", *(f"  {sentence}" for sentence in content["missing"])]
    sys.stdout.write("\n".join([*lines, f"  figures and numbers: {out}/{plan.name}/paper.md", ""]))
    return 0
