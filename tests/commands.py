"""Words of commands that several test files run."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
EXPERIMENTS = REPOSITORY / "experiments"
TINY = [
    "--data.image_size=32",
    "--data.canvas_size=32",
    "--data.batch_size=8",
    '--model.backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}',
    "--trainer.max_steps=2",
]


def command(objective, *words, root, run_dir, size="tiny", data="folder", small=True, figures=False):
    """Words after `cxrbase` for a run of experiments/; `small` makes the network as small as a test can use.

    Drawing figures takes longer than such a run, so it draws them only where a test looks at them.
    """
    layers = ["base", f"objective/{objective}", f"size/{size}", f"data/{data}"]
    if (EXPERIMENTS / "recipe" / f"{objective}_{size}.yaml").is_file():
        layers.append(f"recipe/{objective}_{size}")
    configs = [f"--config={EXPERIMENTS / layer}.yaml" for layer in layers]
    fixed = [f"--data.root={root}", f"--run_dir={run_dir}", "--trainer.accelerator=cpu"]
    fixed += ["--trainer.enable_progress_bar=false", "--probe.resamples=50", "--figures.images=2"]
    fixed += ["--probe.monitor_images=8"]  # whose features take longer than such a step
    fixed += [f"--figures.enabled={str(figures).lower()}"]
    return ["fit", *configs, *fixed, *(TINY if small else []), *words]
