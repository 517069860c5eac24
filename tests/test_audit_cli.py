"""`cxrbase audit` from the words of a command line."""

import shutil

import pytest

from cxrbase.audit_cli import audit
from cxrbase.errors import ManifestError
from hostile_files import dicom


def test_audit_of_a_folder(image_folder, tmp_path, capsys):
    assert audit([str(image_folder), "--out", str(tmp_path / "out")]) == 0
    assert "40 images" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.md", "report.html", "exclude.csv", "audit.json", "hashes.parquet"}


def test_dicom_files_without_a_suffix_are_audited(image_folder, tmp_path, capsys):
    shutil.copytree(image_folder, tmp_path / "set")
    (tmp_path / "set" / "IM0001").write_bytes(dicom(8, 8))
    (tmp_path / "set" / "DICOMDIR").write_bytes(dicom(8, 8))
    assert audit([str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 0
    assert "41 images" in capsys.readouterr().out


def test_audit_needs_an_out_folder(image_folder):
    with pytest.raises(SystemExit):
        audit([str(image_folder)])


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing\.csv"):
        audit([str(tmp_path / "nothing.csv"), "--out", str(tmp_path / "out")])


def test_a_folder_is_audited_with_the_manifest_in_it(image_folder, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(image_folder, root)
    rows = [
        f"{path.name},p1,{split}" for path, split in zip(sorted(root.glob("*.png")), ("train", "test"), strict=False)
    ]
    (root / "manifest.csv").write_text("\n".join(["path,patient_id,split", *rows]))
    assert audit([str(root), "--out", str(tmp_path / "out")]) == 0
    assert "2 images: 0 groups of copies, 1 leaks" in capsys.readouterr().out


def test_no_threads_are_refused(image_folder, tmp_path):
    with pytest.raises(SystemExit):
        audit([str(image_folder), "--out", str(tmp_path / "out"), "--threads", "0"])
