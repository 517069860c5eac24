"""`cxrbase audit` from the words of a command line."""

import pytest

from cxrbase.audit_cli import audit
from cxrbase.errors import ManifestError


def test_audit_of_a_folder(image_folder, tmp_path, capsys):
    assert audit([str(image_folder), "--out", str(tmp_path / "out")]) == 0
    assert "40 images" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.md", "report.html", "exclude.csv", "audit.json", "hashes.parquet"}


def test_audit_needs_an_out_folder(image_folder):
    with pytest.raises(SystemExit):
        audit([str(image_folder)])


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing\.csv"):
        audit([str(tmp_path / "nothing.csv"), "--out", str(tmp_path / "out")])
