"""Fine-tuning as small as it gets: a tiny phantom, a tiny encoder, and the command that fits one to the other."""

from pathlib import Path

from commands import EXPERIMENTS
from cxrbase.backbones import create_backbone, save_encoder
from cxrbase.data.phantom import make_phantom

SHAPE = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
PATIENTS = 48


def make_place(root: Path) -> Path:
    """A phantom, whose seed rules out a validation split without positives, and an encoder, in one folder."""
    make_phantom(root / "phantom", patients=PATIENTS, image_size=32, seed=2, workers=1)
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=SHAPE)
    arguments = {"in_chans": 1, "num_classes": 0, "img_size": 32, **SHAPE}
    card = {"timm_name": "vit_tiny_patch16_224", "timm_args": arguments, "image_size": 32, "mean": 0.5, "std": 0.25}
    save_encoder(vit, root / "encoder", card)
    return root


def words(
    place: Path,
    task: str = "phantom",
    *more: str,
    run: str = "run",
    encoder: str | None = "encoder",
    findings: str | None = "[effusion,nodule]",
):
    """Words after `cxrbase`; later ones win. Two findings make a quarter of the pictures that all eight (None) do."""
    fixed = [f"--config={EXPERIMENTS / 'task' / task}.yaml", f"--task.data.root={place / 'phantom'}"]
    fixed += [f"--task.data.phantom.patients={PATIENTS}", "--task.data.phantom.image_size=32"]
    fixed += ["--task.data.phantom.seed=2", "--finetune.epochs=2", "--finetune.resamples=20"]
    fixed += ["--finetune.accelerator=cpu", f"--run_dir={place / run}"]
    fixed += [f"--task.findings={findings}"] if task == "phantom" and findings else []
    return ["fit", *fixed, *([f"--encoder={place / encoder}"] if encoder else []), *more]
