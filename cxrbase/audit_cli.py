"""`cxrbase audit`: finds copies, leaks, confounded labels and odd images in manifests."""

import sys

from jsonargparse.typing import PositiveInt

from cxrbase.release.outputs import local_place
from cxrbase.suggestions import SuggestingParser


def audit(words: list[str]) -> int:
    """Runs `cxrbase audit` with the words after it and returns the exit code."""
    from cxrbase.data.audit import audit_sets

    parser = SuggestingParser(
        prog="cxrbase audit", description="Finds copies, leaks, confounded labels and odd images in manifests."
    )
    parser.add_argument(
        "manifests",
        nargs="+",
        type=str,
        help="manifests, .parquet or .csv, packs, folders of images with or without a manifest, or <source>=<root> for "
        "public data sets as downloaded, with their official splits and patients (`cxrbase sources` lists their "
        "names); audited together",
    )
    parser.add_argument("--out", type=str, required=True, help="folder for report.md, report.html, exclude.csv, ...")
    parser.add_argument(
        "--threads", type=PositiveInt, default=None, help="threads to decode and compare; by default one per core"
    )
    options = parser.parse_args(words)
    result = audit_sets(options.manifests, local_place(options.out), threads=options.threads)
    images = sum(entry["images"] for entry in result["sets"])
    leaks = len(result["split_leaks"]) + len(result["patient_leaks"])
    flagged = sum(row["flagged"] for row in result["confounding"])
    odd = sum(len(found) for found in result["odd"].values())
    wrong = result["views"]["wrong"]
    sys.stdout.write(
        f"{images} images: {len(result['groups'])} groups of copies, {leaks} leaks between splits, {flagged} labels "
        f"given away by the source, {odd} odd, {len(wrong)} views that look wrong, {len(result['unreadable'])} "
        f"unreadable; see {options.out}/report.html\n"
    )
    return 0
