"""The commands and snippets of the README run, on small networks and few images.

Of `make` only pretraining runs; test, finetune, compare and paper are planned (--dry-run), and `cxrbase demo`, which
serves until it is stopped, shows its help. Options and variables within the text are run, planned or read.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from commands import REPOSITORY, command
from cxrbase import finetune_cli
from cxrbase.cli import main
from cxrbase.evaluate_cli import chosen_settings

README = (REPOSITORY / "README.md").read_text()
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.S))
SMALL = [
    "--data.image_size=32",
    "--data.canvas_size=32",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--trainer.max_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--probe.resamples=20",
    "--figures.images=2",
]


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the commands read, with an environment that counts as installed."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "README.md", "benchmarks/compare_ssl.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "cxrbase").symlink_to(warm.python(tmp_path, "-m", "cxrbase"))
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def small(line, root):
    """A README command with the user's path filled in and everything as small as it gets."""
    words = shlex.split(line.replace("/path/to/images", str(root)))
    of_size = "vit_" in line
    extra = [*SMALL, *(["--model.backbone_options.depth=1"] if of_size else [])]
    if "dino" in line:
        extra.append("--data.views.init_args.local_size=16")
    if "DATA=" not in line and words[0] == "make":
        extra += ["--data.phantom.patients=40", "--data.phantom.image_size=32"]
    if words[0] != "make":
        return words + extra
    given = next((word for word in words if word.startswith("ARGS=")), "ARGS=")
    return [*(word for word in words if word != given), " ".join([given, *extra])]


def test_readme_has_commands():
    assert SHELL[:2] == ["make pretrain SSL=mae", "make test"]


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make pretrain") and "shards" not in line])
def test_make_pretrain_line(line, checkout, image_folder):
    if "RUN_DIR" in line:
        assert main(command("mae", root=image_folder, run_dir=checkout / "runs" / "example")) == 0
        line = line.replace("SSL=mae", "SSL=mae DATA=folder").replace('ARGS="', f'ARGS="--data.root={image_folder} ')
        # The same network and batch as the run that is taken up.
        words = command("mae", root=image_folder, run_dir=checkout)
        keep = [word for word in words if word.startswith(("--data.image", "--data.canvas", "--data.batch"))]
        options = [f"'{word}'" for word in words if word.startswith("--model.backbone_options")]
        line = line[:-1] + " " + " ".join([*keep, *options, "--trainer.max_steps=3"]) + '"'
        run = subprocess.run(["bash", "-c", line], cwd=checkout, capture_output=True, text=True, check=False)
    else:
        if line == SHELL[0]:  # as it is installed
            (checkout / ".venv" / "bin" / "cxrbase").unlink()
            (checkout / ".venv" / "bin" / "cxrbase").symlink_to(Path(sys.executable).with_name("cxrbase"))
        run = subprocess.run(small(line, image_folder), cwd=checkout, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "encoder.safetensors" in run.stdout
    (curves,) = re.findall(r"curves +(\S+) --logdir", run.stdout)
    assert (checkout / curves).is_file()
    assert list(checkout.glob("runs/*/summary.json"))
    assert list(checkout.glob("runs/*/figures/*.png"))


def one(start):
    """The README's only line that starts so."""
    (line,) = [line for line in SHELL if line.startswith(start)]
    return line


def test_pack_line_and_the_run_on_its_shards(checkout, image_folder, monkeypatch):
    monkeypatch.chdir(checkout)
    words = shlex.split(one("cxrbase pack").replace("/path/to/images", str(image_folder)))[1:]
    assert main([*words, "--jobs=1"]) == 0
    (line,) = [line for line in SHELL if line.startswith("make pretrain") and "shards" in line]
    run = subprocess.run(small(line, image_folder), cwd=checkout, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_make_finetune_compare_and_paper_run_the_commands_with_their_files(checkout):
    commands = {
        "make finetune": "cxrbase fit --config experiments/task/phantom.yaml --encoder runs/example",
        "make compare": "benchmarks/compare_ssl.py --config experiments/compare.yaml",
        "make paper": "cxrbase paper --config experiments/paper.yaml --encoder from_scratch=runs/example",
    }
    for start, said in commands.items():
        words = [*shlex.split(one(start)), "--dry-run"]
        run = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=True)
        assert said in run.stdout


@pytest.fixture(scope="module")
def run_folder(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "example"
    assert main(command("mae", root=image_folder, run_dir=folder)) == 0
    return folder


@pytest.fixture
def example(run_folder, tmp_path, monkeypatch):
    """A folder of the test with a run in runs/example, as the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "runs" / "example")
    return tmp_path


def test_evaluate_line(example):
    (example / "experiments").symlink_to(REPOSITORY / "experiments")
    words = shlex.split(one("cxrbase evaluate"))[1:]
    words = [word.replace("timm:vit_tiny_patch16_224", "timm:test_vit") for word in words]
    few = ['--task.data.phantom={"patients": 60, "image_size": 32}', "--task.data.root=phantom"]
    assert main([*words, *few, "--evaluate.protocols=[linear]", "--evaluate.resamples=20", "--evaluate.seen=off"]) == 0
    assert len(list(example.glob("runs/evaluate/results/*.json"))) == 2


@pytest.mark.parametrize("start", ["cxrbase export", "cxrbase embed", "cxrbase explain"])
def test_lines_that_take_an_encoder_away(start, example, image_folder):
    words = shlex.split(one(start).replace("/path/to/images", str(image_folder)))[1:]
    assert main(words) == 0
    assert Path(words[words.index("--out") + 1]).exists()


def test_demo_line_starts(capsys):
    # It serves until it is stopped; tests/release/test_demo.py uses the page.
    words = shlex.split(one("cxrbase demo"))[1:]
    with pytest.raises(SystemExit) as stop:
        main([words[0], "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words if word.startswith("--"))


@pytest.mark.parametrize("words", [words for words in INLINE if re.match(r"--data\.\S+=", words)])
def test_options_of_a_run_within_the_text(words, image_folder, tmp_path):
    """With the views of a default run, which some of them are about."""
    few = [*shlex.split(words), "--data.batch_size=4", "--trainer.max_steps=1"]
    assert main(command("mae", *few, root=image_folder, run_dir=tmp_path / "run", small=False)) == 0


@pytest.mark.parametrize("word", sorted({word for word in INLINE if re.match(r"[A-Z_]+=", word)}))
def test_variables_of_make_within_the_text(word, checkout, monkeypatch):
    target = "compare" if "--budget" in word else "finetune" if re.search("MODE|finetune", word) else "pretrain"
    planned = ["make", "--dry-run", target, *shlex.split(word)]
    run = subprocess.run(planned, cwd=checkout, capture_output=True, text=True, check=True)
    words = shlex.split(run.stdout.replace("\\\n", " "))
    value = word.partition("=")[2].strip('"')
    assert any(value in said for said in (words, " ".join(words)))
    if target == "finetune":
        finetune_cli._parser().parse_args(words[words.index("fit") + 1 :])
    if target == "compare":
        plans = []
        monkeypatch.setattr("cxrbase.compare_cli._run", lambda plan, **where: plans.append(plan) or 0)
        monkeypatch.chdir(checkout)
        assert main(["compare", *words[words.index("--config") :]]) == 0
        assert plans[0].budget == "images"


def test_options_of_evaluate_within_the_text():
    words = [word for word in INLINE if word.startswith("--evaluate.")]
    assert words == ["--evaluate.seen=exact"]
    assert chosen_settings(words) == {"seen": "exact"}


def test_every_option_with_a_value_within_the_text_is_covered():
    kinds = r"--data\.|--evaluate\.|[A-Z_]+=|cxrbase fit --config=runs/"  # the last is repeated in test_experiments.py
    assert [word for word in INLINE if "=" in word and not re.match(kinds, word)] == []


def test_make_test_runs_pytest(checkout):
    run = subprocess.run(["make", "--dry-run", "test"], cwd=checkout, capture_output=True, text=True, check=True)
    assert "pytest" in run.stdout


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("cxrbase fit --config")])
def test_fit_line(line, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert main([*small(line, image_folder)[1:], f"--run_dir={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("cxrbase fit") and "help" in line])
def test_help_line(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line)[1:])
    assert stop.value.code == 0
    assert capsys.readouterr().out


def test_phantom_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in SHELL if line.startswith("cxrbase phantom")]
    words = shlex.split(line.replace("5000", "5").replace("256", "64"))
    assert main(words[1:]) == 0
    assert (tmp_path / words[words.index("--root") + 1] / "contact_sheet.png").is_file()


def test_every_shell_line_is_covered():
    kinds = (
        "make pretrain",
        "make test",
        "make finetune",
        "make compare",
        "make paper",
        "cxrbase pack",
        "cxrbase evaluate",
        "cxrbase export",
        "cxrbase embed",
        "cxrbase explain",
        "cxrbase demo",
        "cxrbase fit --config",
        "cxrbase fit --help",
        "cxrbase phantom",
        "cxrbase sources",
        "cxrbase audit",
    )
    kinds += ("cxrbase fit --model.objective.help",)
    assert [line for line in SHELL if not line.startswith(kinds)] == []


@pytest.mark.parametrize("size", ["32", "[24,40]"])
def test_python_snippet(size, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command("mae", f"--data.image_size={size}", root=image_folder, run_dir=tmp_path / "runs" / "example")
    assert main(words) == 0
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.S)
    run = warm.run(["-c", snippet])
    assert run.returncode == 0, run.stderr


def test_yaml_snippet_and_links(cxr_root, tmp_path):
    import yaml

    from cxrbase.data.manifest import Manifest, Target

    (snippet,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    targets = yaml.safe_load(snippet)["data"]["targets"]
    manifest = Manifest.read(
        cxr_root / "manifest.csv", targets={name: Target(**target) for name, target in targets.items()}
    )
    assert manifest.labels == ("pneumonia",)


def test_local_links_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("cxrbase sources")])
def test_sources_line(line, capsys):
    assert main(shlex.split(line)[1:]) == 0
    assert "NIH Clinical Center" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("cxrbase audit")])
def test_audit_line(line, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line.replace("/path/to/images", str(image_folder)))[1:]) == 0
    assert (tmp_path / "runs" / "audit" / "report.html").is_file()
