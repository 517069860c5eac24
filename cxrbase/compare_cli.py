"""`cxrbase compare`: from a grid of objectives to a report."""

import sys
from typing import Any, Literal

from cxrbase.compare.plan import Plan
from cxrbase.release.outputs import local_place
from cxrbase.suggestions import SuggestingParser


def compare(words: list[str]) -> int:
    """Runs `cxrbase compare`: pretrains every cell of a grid at equal compute, scores all encoders alike, reports.

    Args:
        words: Words after `compare`.

    Returns:
        The exit code: 0 where every cell has a result, 1 where some failed.
    """
    parser = SuggestingParser(
        prog="cxrbase compare",
        description="Pretrains every cell of a grid at equal compute, scores all encoders alike and writes a report. "
        "Run again, it does only what is missing or changed.",
    )
    parser.add_argument("--config", action="config", help="YAML file of these options.")
    parser.add_class_arguments(Plan, as_group=False)
    parser.add_function_arguments(_where)
    # The parser ends the process itself on --help and on wrong options.
    given = parser.instantiate(parser.parse_args(words)).as_dict()
    where = {name: given.pop(name) for name in ("out", "engine", "jobs", "slurm")}
    given.pop("config")
    return _run(Plan(**given), **where)


def _where(
    out: str = "runs/compare",
    engine: Literal["local", "ray", "slurm"] = "local",
    jobs: int | None = None,
    slurm: dict[str, Any] | None = None,
) -> None:
    """Where a comparison runs.

    Args:
        out: Folder of comparisons.
        engine: This machine, an existing Ray cluster, or Slurm; all nodes of the latter two must see this folder,
            `out` and the images at the same paths.
        jobs: Cells at once on this machine; by default one per GPU, or one per CPU core.
        slurm: Parameters of submitit for the engine slurm, such as {slurm_partition: gpu, slurm_account: lab,
            timeout_min: 600}. By default 24 hours, and 8 cores for each GPU that trainer.devices asks for.
    """


def _run(plan: Plan, out: str, **where: Any) -> int:
    from cxrbase.compare.compare import compare as run

    content = run(plan, out=local_place(out), **where)
    lines = ["", content["answer"], *(f"  note: {warning}" for warning in content["warnings"])]
    sys.stdout.write("\n".join([*lines, f"  report {out}/{plan.name}/report.html", ""]))
    return 0 if content["complete"] else 1
