"""Lower precision trains all objectives with an exact loss, losses start at their closed forms, and a bad one stops."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

import small_runs
from commands import command
from cxrbase.cli import main
from cxrbase.objectives import DINO

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["mae", "dino_balanced", "simclr"]


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", NAMES)
def test_every_precision_trains_every_objective_and_logs_an_exact_loss(name, precision, image_folder):
    seen = Losses()
    train = {"steps": 40, "precision": precision, "model": {"lr": 0.064, "warmup": 0.1}}
    end = small_runs.train(name, image_folder, callbacks=[seen], **train)
    losses = torch.stack(seen.values)
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    # A loss computed in bf16 takes few values, all with 16 zero bits at their end.
    assert len(losses.unique()) >= 38
    assert (losses != losses.bfloat16().float()).sum() >= 38
    assert all(value.dtype != torch.bfloat16 for value in end["state"].values())
    if name != "dino_balanced":  # whose loss holds the teacher's entropy, which rises and falls
        assert losses[-8:].mean() < losses[:8].mean()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(precision, image_folder):
    def first_moments(clip):
        train = {"steps": 1, "precision": precision, "gradient_clip_val": clip}
        found = small_runs.train("dino_balanced", image_folder, **train)["gradients"]
        return torch.stack([value.float().norm() for value in found.values()]).norm()

    assert first_moments(1e-6) < 1e-6 < 1e-3 < first_moments(None)


@pytest.mark.parametrize("name", ["MAE", "DINO", "SimCLR"])
def test_float16_with_scaled_gradients_trains(build, make_views, name):
    # What Lightning's 16-mixed does; itself it takes bfloat16 instead where there is no GPU.
    objective = build(name, **({"momentum": 1.0, "centre_momentum": 1.0} if name == "DINO" else {}))
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    scaler, views, losses = torch.amp.GradScaler("cpu", init_scale=2.0**12), make_views(objective), []
    for number in range(30):
        torch.manual_seed(0)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = objective(views, number / 30).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        objective.after_step(number / 30)
        losses.append(loss.detach())
    assert torch.stack(losses).dtype == torch.float32
    assert all(torch.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_float16_trains_in_the_trainer_and_outlives_a_scale_that_overflows(name, image_folder):
    # The plugin that the Trainer takes for precision 16-mixed on a GPU, on a CPU and with far too large a scale.
    scaler, seen = torch.amp.GradScaler("cpu", init_scale=2.0**30), Losses()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    train = {"steps": 60, "plugins": [plugin], "gradient_clip_val": 1.0, "model": {"lr": 0.064, "warmup": 0.0}}
    end = small_runs.train(name, image_folder, callbacks=[seen], **train)
    losses = torch.stack(seen.values)
    assert end["steps"] == 60
    assert 1 < scaler.get_scale() < 2.0**30
    assert losses.dtype == torch.float32
    assert (losses != losses.half().float()).sum() >= 38
    assert all(torch.isfinite(value).all() for value in (losses, *end["state"].values()))
    assert all(value.dtype != torch.float16 for value in end["state"].values())
    if name != "dino_balanced":
        assert losses[-8:].mean() < losses[:8].mean()


def test_dino_starts_near_the_logarithm_of_its_prototypes(tiny_vit, make_views):
    dino = DINO(tiny_vit(), num_prototypes=4096)
    loss = dino(make_views(dino), 0.0).loss.item()
    assert loss == pytest.approx(math.log(4096), rel=0.1)
    with torch.no_grad():
        dino.head.prototypes.weight.copy_(dino.head.prototypes.weight[:1].expand(4096, -1))
    # A student that prefers none of them has exactly this loss, whatever the teacher says.
    assert dino(make_views(dino), 0.0).loss.item() == pytest.approx(math.log(4096), rel=1e-5)
    assert dino.indifferent_loss(8) == pytest.approx(math.log(4096))


def test_nt_xent_starts_near_the_logarithm_of_the_other_crops(build, make_views):
    simclr = build("SimCLR", temperature=1.0)
    assert simclr(make_views(simclr, count=32), 0.0).loss.item() == pytest.approx(math.log(63), rel=0.05)
    same = torch.ones(32, 16)
    assert simclr.contrast(same, same).item() == pytest.approx(math.log(63), rel=1e-5)
    assert simclr.indifferent_loss(32) == pytest.approx(math.log(63))
    assert build("MAE").indifferent_loss(32) is None


def test_an_infinite_loss_stops_within_a_step_and_keeps_the_last_good_checkpoint(image_folder, tmp_path, capfd):
    words = ["--model.lr=1e30", "--model.warmup=0.5", "--trainer.max_steps=20", "--checkpoint.every_n_train_steps=1"]
    words += ["--trainer.max_epochs=99", "--probe.enabled=false", "--figures.enabled=false"]
    assert main(command("simclr", *words, root=image_folder, run_dir=tmp_path)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    step = int(error.split("at step ")[1].split()[0])
    for part in ("learning rate", "lower --model.lr", "--model.warmup", "gradient_clip_val"):
        assert part in error
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert step - 1 <= held["global_step"] <= step
    assert all(torch.isfinite(value).all() for value in held["state_dict"].values())
