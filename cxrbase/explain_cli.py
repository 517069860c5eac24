"""`cxrbase explain`: pictures of where a model or an encoder looks."""

import sys
from typing import Any

from cxrbase.release.methods import METHODS, Method
from cxrbase.suggestions import SuggestingParser


def explain(words: list[str]) -> int:
    """Runs `cxrbase explain` with the words after it and returns the exit code."""
    parser = SuggestingParser(
        prog="cxrbase explain",
        description="Draws what a model looks at over the image, and says whether the map depends on the network.",
    )
    parser.add_argument("image", type=str, help="DICOM, PNG, JPEG ...")
    parser.add_argument(
        "--model", type=str, required=True, help="model folder, or an encoder, as for cxrbase embed --encoder"
    )
    parser.add_argument("--out", type=str, required=True, help="folder for <method>.png and overview.png")
    parser.add_argument(
        "--methods", type=list[Method] | Method, default=list(METHODS), help=f"one, or a list: [{', '.join(METHODS)}]"
    )
    parser.add_argument("--finding", type=str, default=None, help="finding to explain (default: the most probable)")
    options = parser.parse_args(words)

    methods: Any = [options.methods] if isinstance(options.methods, str) else options.methods

    from cxrbase.release.explain_images import explain_image

    done = explain_image(options.model, options.image, out=options.out, methods=methods, finding=options.finding)
    for row in done:
        # Rollout is of the network as a whole, whatever the finding.
        about = f" of {row['finding']}" if row["finding"] and row["method"] != "rollout" else ""
        sys.stdout.write(f"{row['file']}: {row['method']}{about}; {_check(row)}\n")
    return 0


def _check(row: dict[str, Any]) -> str:
    """Whether a map depends on the network, in words."""
    if row["randomised"] is None:
        return "whether it changes with the weights is not known: a map is the same everywhere"
    said = "changes with the weights" if row["follows_weights"] else "DOES NOT CHANGE with the weights: distrust it"
    return f"{said} (rank correlation {row['randomised']:.2f})"
