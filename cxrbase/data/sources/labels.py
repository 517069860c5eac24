"""Turns the codes of public data sets into the columns of a manifest."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from cxrbase.data.manifest import LABEL_PREFIX
from cxrbase.errors import ManifestError

CODE_PREFIX = "code_"
UNKNOWN = float("nan")
OLDEST = 120

CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

_CODES = {"": "", "nan": "", "1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": "-1", "-1.0": "-1"}
_VALUES = {"1": 1.0, "0": 0.0}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def snake(name: str) -> str:
    """Name of a finding as in a column: `Nodule/Mass` is `nodule_mass`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def presence(values: Sequence[Sequence[str]], names: Mapping[str, str]) -> dict[str, list[float]]:
    """Label columns of lists of findings: 1 where a row lists the finding, else 0.

    Args:
        values: Findings of each row.
        names: Name in the manifest for each official name; several may share one.
    """
    official: dict[str, set[str]] = {}
    for name, finding in names.items():
        official.setdefault(finding, set()).add(name)
    rows = [frozenset(row) for row in values]
    return {
        LABEL_PREFIX + finding: [0.0 if row.isdisjoint(wanted) else 1.0 for row in rows]
        for finding, wanted in official.items()
    }


def codes(values: Sequence[str]) -> list[str]:
    """Codes 1, 0, -1 (uncertain) and blank without decimals; ManifestError for another."""
    for value in set(values) - _CODES.keys():
        raise ManifestError(f"a label must be 1, 0, -1 or blank, got {value!r}: download the table again")
    return [_CODES[value] for value in values]


def uncertain(values: Sequence[str]) -> list[float]:
    """Codes 1 and 0 as numbers; uncertain (-1) and blank are NaN. ManifestError for another code."""
    return [_VALUES.get(code, UNKNOWN) for code in codes(values)]


def coded(table: Mapping[str, Sequence[str]], findings: Sequence[str]) -> dict[str, list[float] | list[str]]:
    """Columns `label_<finding>` and, so that no code is lost, `code_<finding>`."""
    columns: dict[str, list[float] | list[str]] = {}
    for finding in findings:
        columns[LABEL_PREFIX + snake(finding)] = uncertain(table[finding])
        columns[CODE_PREFIX + snake(finding)] = list(codes(table[finding]))
    return columns


def sexes(values: Sequence[str]) -> list[str]:
    """M, F or blank."""
    return [_SEXES.get(value.lower(), "") for value in values]


def years(values: Sequence[str]) -> list[float]:
    """Ages such as 58, 58.0, 058Y, 007M or `85 or more` in years; NaN for what is no age of a person."""
    return [_years(value) for value in values]


def views(values: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """PA, AP or LATERAL for official views; blank for a view that has no name here."""
    return [names.get(value, "") for value in values]


@lru_cache(4096)
def _years(value: str) -> float:
    found = re.match(r"([0-9]{1,4}(?:\.[0-9]{1,9})?)\s*([YMWD]?)", value)
    if not found:
        return UNKNOWN
    number = float(found[1]) / {"M": 12, "W": 52.18, "D": 365.25}.get(found[2], 1)
    return number if number <= OLDEST else UNKNOWN
