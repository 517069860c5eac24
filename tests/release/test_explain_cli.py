"""`cxrbase explain` from the words of a command line."""

import numpy as np
import pytest
import torch
from PIL import Image

from cxrbase.cli import main
from cxrbase.errors import ConfigError
from cxrbase.release.explain_images import explain_image


def test_an_encoder_is_explained_at_the_resolution_of_the_image(encoder_folder, tmp_path, capsys):
    rows, columns = np.mgrid[:150, :200]
    Image.fromarray(np.uint8(127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 13))).save(tmp_path / "a.png")
    words = ["explain", str(tmp_path / "a.png"), "--model", str(encoder_folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--methods", "[rollout, relevance, rollout]"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rollout.png", "relevance.png", "overview.png"}
    with Image.open(tmp_path / "out" / "rollout.png") as picture:
        assert picture.size == (200, 150)
    said = capsys.readouterr().out
    assert "change" in said
    assert said.count("rollout.png") == 1


def test_maps_without_ranks_are_not_called_unchanged(encoder_folder, image_folder, tmp_path, capsys, monkeypatch):
    still = torch.zeros(1, 4, 4)
    monkeypatch.setattr("cxrbase.release.explain_checks.explain", lambda *_, **__: still)
    image = str(next(image_folder.glob("*.png")))
    words = ["explain", image, "--model", str(encoder_folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--methods", "rollout"]) == 0
    said = capsys.readouterr().out
    assert "is not known" in said
    assert "DOES NOT CHANGE" not in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--methods", "[magic]"], 2, "rollout, gradient, relevance, occlusion, not 'magic'"),
        (["--methods", "magic"], 2, "magic"),
        (["--methods", "[]"], 1, "no method is named: take some of rollout, gradient, relevance, occlusion"),
        (["--finding", "pneumonia"], 1, "an encoder knows no finding"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_sentence(
    words, code, said, encoder_folder, image_folder, tmp_path, capsys
):
    image = str(next(image_folder.glob("*.png")))
    command = ["explain", image, "--model", str(encoder_folder), "--out", str(tmp_path / "out"), *words]
    try:
        ended = main(command)
    except SystemExit as stop:
        ended = stop.code
    assert ended == code
    assert said in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"one of rollout, .*, got 'magic'"):
        explain_image(str(encoder_folder), image, out=tmp_path / "out", methods=["magic"])
    assert not (tmp_path / "out").exists()
