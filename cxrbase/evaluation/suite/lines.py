"""Results and differences as lines of text, for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxrbase.evaluation.score_text import score_text
from cxrbase.evaluation.suite.results import Result


def result_lines(results: Sequence[Result]) -> list[str]:
    """A table of macro AUROC and AUPRC, a line for each result."""
    lines = ["", f"{'task':22} {'encoder':22} {'protocol':14} seed  macro AUROC            macro AUPRC"]
    for result in results:
        row = result.row
        area, precision = (score_text(row["metrics"][name]["macro"]) for name in ("auroc", "auprc"))
        lines.append(f"{row['task']['name'][:22]:22} {row['encoder']['name'][:22]:22} {row['protocol']:14} "
                     f"{row['seed']:4}  {area:22} {precision}")  # fmt: skip
    return lines


def difference_lines(differences: Sequence[Mapping[str, Any]], protocols: Sequence[str]) -> list[str]:
    """A sentence for each pair in some protocols.

    Args:
        differences: Of `compare_results`.
        protocols: Those that are shown.
    """
    lines = [""] if differences else []
    for one in differences:
        if one["protocol"] in protocols and one["value"] is not None:
            corrected = "" if one["p_holm"] is None else f", p = {one['p_holm']:.3g} after Holm"
            lines.append(f"{one['task']}, {one['protocol']}: {one['encoders'][0]} - {one['encoders'][1]} = "
                         f"{score_text(one, '+.3f')}{corrected}")  # fmt: skip
    return lines
