"""What a cell read is part of its key: images, labels, splits, patients, lists, weights, and the code that counts."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cxrbase
from commands import EXPERIMENTS
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.compare.inputs import prepare, without_absent
from cxrbase.compare.plan import CONTROL, Axis, Plan
from cxrbase.compare.worker import _export
from cxrbase.errors import ConfigError
from cxrbase.evaluation.suite.lineage import lineage
from cxrbase.weights import load_any_encoder
from packs import make_pack
from reaching import reached

PACKAGE = Path(cxrbase.__file__).parent
PATIENTS, SHAPE = 12, {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SPLITS = ["train"] * 6 + ["val"] * 3 + ["test"] * 3


def write_images(root: Path) -> Path:
    """Two images of each patient, and what is known about them."""
    root.mkdir()
    lines = ["path,patient_id,split,sex,label_opacity"]
    for number in range(2 * PATIENTS):
        grey = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(grey).save(root / f"{number:02}.png")
        patient = number // 2
        lines.append(f"{number:02}.png,p{patient},{SPLITS[patient]},{'FM'[patient % 2]},{patient % 2}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def write_weights(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=SHAPE)
    shape = {**SHAPE, "img_size": 32, "in_chans": 1, "num_classes": 0}
    card = {"timm_name": "vit_tiny_patch16_224", "timm_args": shape, "image_size": 32, "mean": 0.5, "std": 0.25}
    save_encoder(vit, folder, card)


@pytest.fixture
def place(tmp_path):
    """Images to pretrain on, images of a task, a list of what is left out, and weights to start from."""
    write_images(tmp_path / "own")
    write_images(tmp_path / "asked")
    task = {"name": "opacity", "title": "Opacity", "kind": "binary", "findings": ["opacity"]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"task": task | {"data": {"root": str(tmp_path / "asked")}}}))
    (tmp_path / "exclude.csv").write_text("path\n01.png\n")
    write_weights(tmp_path / "weights", 0)
    return tmp_path


def plan_of(place: Path, **changes) -> Plan:
    words = [
        f"--data.root={place / 'own'}", "--data.image_size=32", "--data.canvas_size=32", "--data.batch_size=4",
        f"--data.select.exclude=[{place / 'exclude.csv'}]", f"--model.init_from={place / 'weights'}",
    ]  # fmt: skip
    return Plan(**{
        "name": "made", "objectives": ["mae"], "size": "tiny", "data": "folder", "tasks": [str(place / "task.yaml")],
        "amounts": {"images": 8.0}, "budget": "images", "seeds": [0], "experiments": str(EXPERIMENTS), "words": words,
    } | changes)  # fmt: skip


def keys(plan: Plan, place: Path) -> dict[str, str]:
    inputs = prepare(plan, place / "out")
    return {
        cell.title: cell.key(plan, data=inputs.pretraining[cell.title], tasks=inputs.tasks) for cell in plan.cells()
    }


def edit(path: Path, old: str, new: str) -> None:
    """A text file with a word replaced; of the same size and time where the words are of one length."""
    status, text = path.stat(), path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "splits swapped": lambda place: edit(place / "own" / "manifest.csv", "p5,train", "p5,val"),
    "a label of the pretraining": lambda place: edit(place / "own" / "manifest.csv", "p4,train,F,0", "p4,train,F,1"),
    "a label of the task": lambda place: edit(place / "asked" / "manifest.csv", "p9,test,M,1", "p9,test,M,0"),
    "a patient of the task": lambda place: edit(place / "asked" / "manifest.csv", "20.png,p10", "20.png,p11"),
    "a split of the task": lambda place: edit(place / "asked" / "manifest.csv", "p9,test", "p9,val"),
    "an image": lambda place: Image.new("L", (32, 32), 9).save(place / "own" / "03.png"),
    "an image of the task": lambda place: Image.new("L", (32, 32), 9).save(place / "asked" / "03.png"),
    "what is left out": lambda place: edit(place / "exclude.csv", "01.png", "02.png"),
    "the weights to start from": lambda place: write_weights(place / "weights", 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_key_changes_with_whatever_a_cell_reads(place, change):
    plan = plan_of(place)
    before = keys(plan, place)
    assert keys(plan, place) == before
    CHANGES[change](place)
    after = keys(plan, place)
    assert all(after[title] != key for title, key in before.items())


def test_the_control_is_the_network_that_the_others_start_from(place, tmp_path):
    shape = f"--model.backbone_options={json.dumps(SHAPE)}"
    plan = plan_of(place, words=[*plan_of(place).words, shape])
    control = plan.cells()[0]
    assert control.objective == CONTROL
    _export(control, tmp_path / "run")
    (was, card), (found, made) = (load_any_encoder(str(folder)) for folder in (place / "weights", tmp_path / "run"))
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        wanted = was.forward_features((images - card["mean"]) / card["std"])
        got = found.forward_features((images - made["mean"]) / made["std"])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    # What those weights have seen, the control has seen.
    assert lineage(tmp_path / "run") == [tmp_path / "run", place / "weights"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"])
def test_the_key_changes_with_the_file_to_start_from(place, suffix):
    (file := place / f"start{suffix}").write_bytes(b"0")
    plan = plan_of(place, words=[*plan_of(place).words, f"--model.init_from={file}"], control=False)
    before = keys(plan, place)
    file.write_bytes(b"more")
    assert keys(plan, place) != before


def test_a_cell_is_done_again_only_where_its_own_images_changed(place):
    write_images(place / "other")
    values = {name: [f"--data.root={place / name}"] for name in ("own", "other")}
    plan = plan_of(place, axes={"set": Axis(values)}, control=False)
    before = keys(plan, place)
    edit(place / "other" / "manifest.csv", "p5,train", "p5,val")
    after = keys(plan, place)
    assert [title for title in before if after[title] != before[title]] == ["mae 32-true other seed 0"]


def test_the_key_changes_with_labels_and_images_of_packs(place):
    columns = {"label_opacity": [0.0, 1.0] * PATIENTS, "split": [split for split in SPLITS for _ in range(2)]}
    task = yaml.safe_load((place / "task.yaml").read_text())
    task["task"]["data"]["root"] = str(place / "task pack")
    (place / "task.yaml").write_text(yaml.safe_dump(task))
    found = []
    for own, asked in [(0, 0), (0, 0), (1, 0), (0, 1)]:
        for name, changed in (("own pack", own), ("task pack", asked)):
            shutil.rmtree(place / name, ignore_errors=True)
            labels = [float(changed), *columns["label_opacity"][1:]]
            make_pack(place / name, **columns | {"label_opacity": labels})
        words = [f"--data.root={place / 'own pack'}", "--data.image_size=32", "--data.batch_size=4"]
        found.append(keys(plan_of(place, words=words, control=False), place)["mae 32-true seed 0"])
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_task_without_images_is_left_out_and_named(place):
    plan = plan_of(place, tasks=[str(place / "task.yaml"), str(EXPERIMENTS / "task" / "rsna.yaml")])
    left, said = without_absent(plan)
    assert left.tasks == [str(place / "task.yaml")]
    (sentence,) = said
    assert sentence.startswith("rsna is not scored: no folder ")
    (place / "asked").rename(place / "gone")
    with pytest.raises(ConfigError, match=r"no task has images to score on: .*task\.yaml has no folder"):
        without_absent(plan)


def test_two_tasks_of_one_name_are_refused_and_one_file_twice_is_one_task(plan, tmp_path):
    first = Path(plan.tasks[0])
    other = tmp_path / "other.yaml"
    other.write_text(first.read_text())
    with pytest.raises(ConfigError, match=r"are both called made: give one another task\.name"):
        without_absent(replace(plan, tasks=[str(first), str(other)]))
    content = yaml.safe_load(first.read_text())
    content["task"]["data"]["root"] = str(write_images(tmp_path / "there"))
    first.write_text(yaml.safe_dump(content))
    assert without_absent(replace(plan, tasks=[str(first), str(first)]))[0].tasks == [str(first)]


def test_the_code_version_leaves_out_only_what_no_worker_imports(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "cxrbase", ignore=shutil.ignore_patterns("__pycache__"))
    script = """if True:
        from pathlib import Path
        import cxrbase
        from cxrbase.compare.plan import code_version
        package = Path(cxrbase.__file__).parent
        # All of compare/, and one file of every other folder.
        others = {path.parent: path for path in package.rglob("*.py") if path.parent.name != "compare"}
        for path in [*package.glob("compare/*.py"), *others.values()]:
            before, text = code_version(), path.read_text()
            path.write_text(text + "# more")
            print(path.relative_to(package).as_posix() if code_version() == before else "")
            path.write_text(text)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    without_effect = set(done.stdout.split())
    shown = {f"compare/{name}.py" for name in ("charts", "collect", "live", "report", "verdict", "paper", "paper_page")}
    assert shown <= without_effect
    # The command `fit` reaches Lightning by a name that is no import statement.
    used = reached("cxrbase.compare.worker") | reached("cxrbase.fit_cli") | reached("cxrbase.compare.heartbeat")
    assert "compare/cost.py" in used
    assert "training_cli.py" in used
    assert not {file for file in used & without_effect if not file.startswith("release/")}
    assert {file.split("/")[0] for file in without_effect} == {"compare", "release"}
