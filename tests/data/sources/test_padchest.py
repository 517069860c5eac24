"""PadChest's labels form a tree: whoever has a kind of a finding has the finding."""

import csv
import math

import pytest

from cxrbase.data.sources import padchest
from data.sources.trees_large import PADCHEST, make_padchest, table

# Read off tree_term_CUI_counts_160K.csv of the release; every label below one of the findings.
TREE = """
atelectasis: total atelectasis, lobar atelectasis, segmental atelectasis, laminar atelectasis, round atelectasis
atelectasis: atelectasis basal
infiltrates: interstitial pattern, ground glass pattern, reticular interstitial pattern
infiltrates: reticulonodular interstitial pattern, miliary opacities, alveolar pattern, consolidation, air bronchogram
consolidation: air bronchogram
nodule: multiple nodules
pleural effusion: loculated pleural effusion, loculated fissural effusion, hydropneumothorax, empyema, hemothorax
pleural thickening: apical pleural thickening, calcified pleural thickening
pneumothorax: hydropneumothorax
pneumonia: atypical pneumonia
pulmonary fibrosis: post radiotherapy changes, asbestosis signs
tuberculosis: tuberculosis sequelae
"""
ROWS = [line.split(": ") for line in TREE.strip().splitlines()]
PAIRS = [(parent, child) for parent, children in ROWS for child in children.split(", ")]
# Their names or meanings are near, and the tree has them elsewhere.
OTHERS = [
    ("emphysema", "subcutaneous emphysema"),
    ("emphysema", "bullas"),
    ("nodule", "pseudonodule"),
    ("nodule", "calcified granuloma"),
    ("pleural effusion", "pericardial effusion"),
    ("pleural effusion", "costophrenic angle blunting"),
    ("pleural thickening", "calcified pleural plaques"),
    ("pleural thickening", "minor fissure thickening"),
    ("pneumothorax", "pneumomediastinum"),
    ("pulmonary mass", "pleural mass"),
    ("atelectasis", "hypoexpansion"),
    ("consolidation", "alveolar pattern"),
    ("tuberculosis sequelae", "tuberculosis"),
    ("pacemaker", "dai"),
]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("padchest")
    make_padchest(root)
    return root


def read(root, *cells):
    """The manifest of a release, its first rows with these labels."""
    names, *rows = list(csv.reader((root / PADCHEST).read_text().splitlines()))
    for row, cell in zip(rows, cells, strict=False):
        row[names.index("Labels")] = cell
    table(root / PADCHEST, names, rows)
    return padchest.SOURCE.read(root, partial=True)


def label(manifest, finding):
    return manifest.column("label_" + finding.lower().replace(" ", "_"))[0]


@pytest.mark.parametrize(("finding", "kind"), PAIRS)
def test_a_kind_of_a_finding_is_the_finding(release, finding, kind):
    manifest = read(release, f"['{kind}']")
    assert label(manifest, finding) == 1
    assert manifest.column("labels_official")[0] == kind
    present = {name for name in padchest.FINDINGS if label(manifest, name) == 1}
    assert present == {parent for parent, child in PAIRS if child == kind} | {kind} & set(padchest.FINDINGS)


@pytest.mark.parametrize(("finding", "other"), OTHERS)
def test_what_the_tree_has_elsewhere_is_not_the_finding(release, finding, other):
    assert label(read(release, f"['{other}']"), finding) == 0


def test_every_pair_of_the_source_is_in_the_tree():
    assert {(parent, kind) for parent, kinds in padchest.KINDS.items() for kind in kinds} == set(PAIRS)


@pytest.mark.parametrize("device", ["dual chamber device", "single chamber device"])
def test_a_device_that_may_be_a_pacemaker_leaves_it_open(release, device):
    manifest = read(release, f"['{device}']")
    assert math.isnan(label(manifest, "pacemaker"))
    assert label(manifest, "pneumonia") == 0
    assert label(read(release, f"['{device}', 'pacemaker']"), "pacemaker") == 1


def test_a_report_that_only_refers_to_an_earlier_one_leaves_all_open(release):
    manifest = read(release, "['unchanged']", "['unchanged', 'nodule']")
    assert all(math.isnan(label(manifest, finding)) for finding in padchest.FINDINGS)
    assert manifest.column("label_nodule")[1] == 1
    assert manifest.column("label_pneumonia")[1] == 0
