"""The command line: help, suggestions, one-sentence errors with a non-zero exit code, and its two commands."""

import os
import re
import shutil
import subprocess
import sys
from typing import Literal

import pytest
import yaml
from PIL import Image

import warm
from commands import EXPERIMENTS, REPOSITORY, command
from cxrbase.cli import main
from cxrbase.devices import DEVICE_HELP
from cxrbase.suggestions import SuggestingParser


def failure(capfd, words):
    """Exit code and the last line on stderr of a command that must fail without a traceback."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return code, captured.err.strip().splitlines()[-1] if captured.err.strip() else ""


def test_help_answers_without_the_libraries_that_take_long_to_load():
    words = [sys.executable, "-X", "importtime", "-m", "cxrbase", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "cxrbase.cli" in loaded
    assert not {"torch", "timm", "lightning", "matplotlib", "pyarrow", "cv2"} & loaded
    assert "fit" in done.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_is_quiet_where_nobody_reads_on(option):
    job = subprocess.Popen(
        [sys.executable, "-u", "-m", "cxrbase", option], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    job.stdout.close()
    assert (job.wait(), job.stderr.read()) == (0, "")


def test_help_lists_every_command(capsys):
    assert main([]) == 2
    listed = re.findall(r"^  ([a-z]+) ", capsys.readouterr().out.split("options:")[0], re.MULTILINE)
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err.strip().endswith("there are " + ", ".join(listed))


def test_fit_help_shows_what_docstrings_say(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--data.batch_size" in text
    assert "Images per device and step" in text
    assert "Pretrains a Vision Transformer" in text
    assert "cxrbase fit --config experiments/task/<task>.yaml --help" in " ".join(text.split())
    with pytest.raises(SystemExit):
        main(["fit", "--model.objective.help=cxrbase.objectives.DINO"])
    assert "teacher_temperature" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["audit", "embed", "predict", "pack", "evaluate", "paper"])
def test_device_and_threads_are_said_once_and_alike(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    cores = "by default one per core (type: PositiveInt, default: null)"
    assert ("--threads" in text or "--jobs" in text) == (cores in text)
    assert ("--device" in text) == (f"{DEVICE_HELP} (type: str, default: auto)" in text)


def test_version_and_wrong_command(capfd):
    assert main(["--version"]) == 0
    code, line = failure(capfd, ["fitt"])
    assert code == 2
    assert "fit" in line
    assert main([]) == 2


def test_print_config_is_a_whole_configuration(image_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command("dino", root=image_folder, run_dir=tmp_path), "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["objective"]["class_path"] == "cxrbase.objectives.DINO"
    assert config["data"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("--data.batchsize=4", "data.batch_size"),
        ("--data.batch-size=4", "data.batch_size"),
        ("--model.objective.init_args.mask_ration=0.5", "model.objective.init_args.mask_ratio"),
        # No abbreviation, or it would set max_epochs in silence.
        ("--trainer.max_epoch=2", "trainer.max_epochs"),
        ("--model.objective.class_path=cxrbase.objectives.DINOO", "DINO"),
        ("--model.objective=simclr", "SimCLR"),
        ("--data.views.class_path=cxrbase.views.RandomView", "cxrbase.views.RandomViews"),
        ("--trainer.precision=bf16-mixd", "bf16-mixed"),
        ("--trainer.precision=bf16 mixed", "bf16-mixed"),
    ],
)
def test_typo_is_answered_by_what_was_meant(image_folder, tmp_path, capfd, wrong, meant):
    words = command("mae", wrong, root=image_folder, run_dir=tmp_path)
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("cxrbase: error: ")
    assert error.endswith(f"did you mean {meant}?")
    assert len(error.splitlines()) == 1


def test_unknown_backbone_is_answered_by_the_nearest(image_folder, tmp_path, capfd):
    words = command("mae", "--model.backbone=vit_smal_patch16_224", root=image_folder, run_dir=tmp_path / "run")
    assert main(words) == 1
    assert "timm has no backbone 'vit_smal_patch16_224'; did you mean vit_small_patch16_224?" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["phantom", "--patinets=3"], "patients"),
        (["evaluate", "--encodr=x"], "encoder"),
        (["embed", "--batch-siez=3", "x"], "batch_size"),
        (["pack", "--soruce=a"], "source"),
        (["pack", "--codec=jpg"], "jpeg"),
        (["audit", "--thread=3"], "threads"),
        (["export", "--encodr=x"], "encoder"),
        (["explain", "--modle=x"], "model"),
        (["predict", "--modle=x"], "model"),
        (["demo", "--modle=x"], "model"),
        (["sources", "--nmae=nih"], "name"),
        (["compare", "--naem=x"], "name"),
        (["paper", "--encodr=x=y"], "encoder"),
    ],
)
def test_typo_in_an_option_of_a_command_is_answered_by_what_was_meant(capfd, words, meant):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == (1 if words[0] == "paper" else 2)
    error = capfd.readouterr().err.strip()
    assert error.startswith("cxrbase: error: ")
    assert error.endswith(f"did you mean {meant}?")
    assert len(error.splitlines()) == 1


def test_an_option_that_takes_more_than_its_listed_values_keeps_the_whole_answer(capfd):
    parser = SuggestingParser()
    parser.add_argument("--uncertain", type=Literal["ones", "zeros"] | dict[str, Literal["ones", "zeros"]])
    with pytest.raises(SystemExit):
        parser.parse_args(["--uncertain=one"])
    error = capfd.readouterr().err
    assert "it takes" not in error
    assert "dict" in error


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("--model.objective=Jigsaw", "no objective 'Jigsaw': there are MAE, DINO, SimCLR"),
        ("--model.lr=fast", "model.lr: Expected a float. Got value: fast"),
        ("--trainer.precision=half", "trainer.precision: it takes transformer-engine, "),
        ("--trainer.precision=half", "not 'half'"),
    ],
)
def test_a_wrong_value_is_answered_in_one_sentence(image_folder, tmp_path, capfd, wrong, part):
    with pytest.raises(SystemExit) as stop:
        main(command("mae", wrong, root=image_folder, run_dir=tmp_path))
    assert stop.value.code == 2
    error = capfd.readouterr().err.strip()
    assert part in error
    assert len(error.splitlines()) == 1


def test_processes_without_a_common_folder_are_refused(image_folder, capfd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = [word for word in command("mae", root=image_folder, run_dir="") if not word.startswith("--run_dir")]
    code, line = failure(capfd, words)
    assert code == 1
    assert "set --run_dir" in line


def test_typo_in_a_yaml_file_is_answered_too(image_folder, tmp_path, capfd):
    (tmp_path / "mine.yaml").write_text("data:\n  imagesize: 64\n")
    words = command("mae", f"--config={tmp_path / 'mine.yaml'}", root=image_folder, run_dir=tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "image_size" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--data.root=/no/such/folder"], "/no/such/folder"),
        (["--data.views.num_global=1"], "2 large views"),
        (["--data.views.num_global=0"], "num_global must be at least 1"),
        (["--data.views.flip=2"], "flip"),
        (["--data.pretrain_on=[trian]"], "pretrain_on must name some of train, val, test, got ['trian']"),
        (["--data.pretrain_on=[]"], "pretrain_on must name some of train, val, test, got []"),
        (["--data.canvas_size=-5"], "canvas_size must be at least 1, got -5"),
        (["--probe.monitor_every=0"], "monitor_every must be at least 1, got 0"),
        (["--probe.resamples=0"], "resamples must be at least 1, got 0"),
        (["--model.lr=-1"], "lr must be above 0, got -1"),
        (["--data.batch_size=1"], "at least 2 images"),
        (["--data.batch_size=4000"], "data.batch_size"),
        (["--model.objective.init_args.temperature=-1"], "temperature must be above 0"),
        (["--ckpt_path=/no/such/run"], "no checkpoint at /no/such/run"),
        (["--data.manifest=/no/such/manifest.csv"], "no manifest /no/such/manifest.csv"),
        (["--data.score_on=[effusion]"], "effusion"),
        (["--model.backbone=resnet50"], "resnet50"),
        (["--data.image_size=36"], "a multiple of 8"),
        (["--data.image_size=40"], "data.canvas_size 32 is smaller than data.image_size 40"),
        (["--data.image_size=[64,40]"], "image_size [64, 40], so that images would be scaled down and enlarged again"),
        (["--trainer.precision=bf16-true"], "got 'bf16-true': set it to 32-true or bf16-mixed or 16-mixed"),
        (["--trainer.precision=64"], "--trainer.precision must keep weights in float32, got '64'"),
        (["--trainer.strategy=fsdp"], "got 'fsdp': set --trainer.strategy=lightning.pytorch.strategies.ModelParallel"),
        (["--trainer.strategy=deepspeed_stage_2"], "--trainer.strategy must leave weights their shapes"),
        (["--trainer.strategy=lightning.pytorch.strategies.FSDPStrategy"], "FSDPStrategy': set --trainer.strategy"),
        (["--data.std=-1"], "std must be in (0, 1], got -1"),
        (["--data.std=0"], "std must be in (0, 1], got 0"),
        (["--data.mean=5"], "mean must be in [0, 1], got 5"),
        (["--data.max_bad=-1"], "max_bad must be in [0, 1], got -1"),
        (["--data.cache_gb=-1"], "cache_gb must be at least 0, got -1"),
        (["--data.num_workers=-1"], "num_workers must be at least 0, got -1"),
        (["--data.canvas_size=10"], "data.canvas_size 10 is smaller than data.image_size 32"),
        (["--model.drop_path=1.5"], "drop_path must be in [0, 1), got 1.5"),
        (["--model.weight_decay=-1"], "weight_decay must be at least 0, got -1"),
        (["--model.min_lr=2"], "min_lr must be in [0, 1], got 2"),
        (['--model.backbone_options={"patch_size": 8, "depth": 0}'], "a depth of at least 1"),
        (["--trainer.max_steps=0"], "--trainer.max_steps=0 leaves nothing to train"),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=0"], "--trainer.max_epochs=0 leaves nothing to train"),
        (["--trainer.accumulate_grad_batches=0"], "--trainer.accumulate_grad_batches=0 leaves nothing to train"),
        (["--trainer.limit_train_batches=0"], "--trainer.limit_train_batches=0 leaves nothing to train"),
        (["--trainer.overfit_batches=1"], "use --trainer.limit_train_batches"),
        (["--trainer.devices=-1"], "--trainer.devices on a CPU must be auto or a number of processes above 0, got -1"),
        (["--trainer.devices=0"], "above 0, got 0"),
        (["--data.root="], "--data.root is empty: give . for the current folder"),
        (["--run_dir="], "--run_dir is empty: give . for the current folder"),
        (["--run_dir=s3://bucket/run"], "--run_dir must be a folder on this machine, got s3://bucket/run"),
        (["--checkpoint.dirpath=elsewhere"], "--checkpoint.dirpath is set by --run_dir: leave it out"),
        (["--trainer.default_root_dir", "elsewhere"], "--trainer.default_root_dir is set by --run_dir: leave it out"),
        (["--checkpoint.save_last=false"], "--checkpoint.save_last is always true"),
        (["--weights_only", "false"], "--weights_only is always true"),
        (["--model.lr=1e30", "--trainer.max_steps=20", "--model.warmup=0.0"], "the loss is"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(image_folder, tmp_path, capfd, words, part):
    code, line = failure(capfd, command("simclr", *words, root=image_folder, run_dir=tmp_path / "run"))
    assert code == 1
    assert line.startswith("cxrbase: error: ")
    assert part in line
    assert not re.search("Namespace|NoneType|Union", line)
    # A run that never took a step leaves no folder behind.
    assert (tmp_path / "run").exists() == ("--model.lr=1e30" in words)


@pytest.mark.parametrize(("function", "options"), [("os.system", {"command": "echo {}"}), ("os.mkdir", {"path": "{}"})])
def test_a_function_in_place_of_an_objective_is_refused_before_it_is_called(
    image_folder, tmp_path, capfd, function, options
):
    done = tmp_path / "done"
    given = {name: value.format(done) for name, value in options.items()}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"model": {"objective": {"class_path": function, "init_args": given}}}))
    code, line = failure(capfd, command("mae", f"--config={config}", root=image_folder, run_dir=tmp_path / "run"))
    assert code == 1
    assert f"must be a class derived from cxrbase.objectives.Objective, got {function}: there are MAE" in line
    assert not done.exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "huge"])
def test_unreadable_images_are_named(image_folder, tmp_path, capfd, damage):
    root = tmp_path / "images"
    shutil.copytree(image_folder, root, ignore=shutil.ignore_patterns(".canvas"))
    broken = root / "05.png"
    content = {"empty": b"", "truncated": broken.read_bytes()[:200], "text": b"not an image"}
    if damage == "huge":
        Image.new("1", (20_000, 20_000)).save(broken)
    else:
        broken.write_bytes(content[damage])
    code, line = failure(capfd, command("mae", root=root, run_dir=tmp_path / "run"))
    assert code == 1
    assert "1 of 40 images are unreadable" in line
    assert "max_bad=0.025" in line
    assert str(broken) in line
    assert main(command("mae", "--data.max_bad=0.05", root=root, run_dir=tmp_path / "run")) == 0
    assert capfd.readouterr().err.count(f"left out: cannot read {broken}") == 1
    # The outcome of decoding is kept by now, and the next run judges it by its own limit.
    assert failure(capfd, command("mae", root=root, run_dir=tmp_path / "again")) == (1, line)


def test_folder_without_images_and_manifest_without_its_column(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("nothing here")
    code, line = failure(capfd, command("mae", root=tmp_path, run_dir=tmp_path / "run"))
    assert code == 1
    assert "no images below" in line
    (tmp_path / "manifest.csv").write_text("file,label\na.png,1\n")
    code, line = failure(capfd, command("mae", root=tmp_path, run_dir=tmp_path / "run"))
    assert code == 1
    assert "no column path" in line
    (tmp_path / "manifest.csv").write_text("path,split\na.png,train\n")
    code, line = failure(capfd, command("mae", root=tmp_path, run_dir=tmp_path / "run"))
    assert code == 1
    assert "a.png" in line


@pytest.mark.parametrize("workers", [0, -2])
def test_phantom_command_refuses_a_number_of_workers_that_is_none(workers, tmp_path, capfd):
    code, line = failure(capfd, ["phantom", f"--root={tmp_path}", f"--workers={workers}"])
    assert code == 2
    assert "workers" in line
    assert str(workers) in line


def test_phantom_command_makes_a_contact_sheet(tmp_path, capsys):
    assert main(["phantom", "--root", str(tmp_path / "set"), "--patients", "4", "--image_size", "48"]) == 0
    with Image.open(tmp_path / "set" / "contact_sheet.png") as sheet:
        assert sheet.width > 500
    assert "contact_sheet.png" in capsys.readouterr().out


def test_phantom_command_takes_a_seed_and_any_number_of_processes(tmp_path):
    for name, seed, workers in (("a", 0, 1), ("b", 3, 1), ("c", 3, 2)):
        words = ["--patients=3", "--image_size=48", f"--seed={seed}", f"--workers={workers}"]
        assert main(["phantom", f"--root={tmp_path / name}", *words]) == 0
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.suffix in (".jpg", ".dcm")}
        for name in "abc"
    )
    assert b == c
    assert all(b.values())
    assert sorted(a.values()) != sorted(b.values())


@pytest.mark.parametrize(("variable", "folder"), [("SSL", "objective"), ("SIZE", "size"), ("DATA", "data")])
def test_make_says_which_names_exist(variable, folder):
    words = ["make", "pretrain", f"{variable}=nonsense"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode
    for path in (EXPERIMENTS / folder).glob("*.yaml"):
        assert path.stem in done.stderr


def test_make_help_lists_every_target():
    done = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True, env=dict(os.environ))
    for target in ("pretrain", "test", "lint", "types", "figures", "bench", "clean"):
        assert f"make {target}" in done.stdout


# A limit on the size of files stands in for a full disk: both make a write fail half-way.
LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
runpy.run_module("cxrbase", run_name="__main__", alter_sys=True)
"""


def test_a_full_disk_is_said_in_one_sentence(image_folder, tmp_path):
    words = command("mae", root=image_folder, run_dir=tmp_path / "run")
    process = warm.Process(["-c", LIMITED, *words], stderr=subprocess.PIPE, cwd=tmp_path)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "cxrbase: error: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "."],
        ["evaluate", "--encoder=timm:test_vit", "--config=experiments/task/phantom.yaml"],
        ["paper", "--config=experiments/paper.yaml"],
        ["compare", "--config=experiments/compare.yaml"],
    ],
)
def test_reports_are_written_on_this_machine(words, capfd, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert main([*words, "--out=s3://bucket/report"]) == 1
    assert "--out must be on this machine, got s3://bucket/report" in capfd.readouterr().err
    assert not (REPOSITORY / "s3:").exists()


@pytest.mark.parametrize(("text", "said"), [("data: 5", "data"), ("data:", "data"), ("model: true", "model")])
def test_a_section_that_holds_no_settings_is_refused_by_its_name(text, said, tmp_path, capfd):
    (tmp_path / "wrong.yaml").write_text(text + "\n")
    words = ["fit", f"--config={EXPERIMENTS / 'base.yaml'}", f"--config={tmp_path / 'wrong.yaml'}"]
    code, error = failure(capfd, words)
    assert code == 1
    assert f"wrong.yaml: {said} is a section of settings" in error
