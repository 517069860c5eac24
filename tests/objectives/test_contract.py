"""What every objective promises: a loss that trains, state that moves once per step, an encoder to export."""

import lightning as L
import pytest
import torch

from cxrbase.backbones import load_encoder, save_encoder
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError
from cxrbase.objectives import DINO, MAE, Objective, SimCLR
from cxrbase.pretraining import Pretraining
from cxrbase.views import RandomViews, Views

NAMES = ["MAE", "DINO", "SimCLR"]
BATCHNORM = ("running_mean", "running_var", "num_batches_tracked")
every_objective = pytest.mark.parametrize("name", NAMES)


def snapshot(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def step(objective, batches, optimizer, *, progress=0.5, seed=0):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    total = 0.0
    for views in batches:
        loss = objective(views, progress).loss / len(batches)
        loss.backward()
        total += loss.item()
    optimizer.step()
    objective.after_step(progress)
    return total


def split(views, parts):
    chunks = [[crop.chunk(parts) for crop in crops] for crops in views[:2]]
    keys = [None] * parts if views.keys is None else views.keys.chunk(parts)
    return [Views(*([crop[part] for crop in crops] for crops in chunks), keys[part]) for part in range(parts)]


@every_objective
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_loss_is_finite_and_reaches_every_trainable_parameter(build, make_views, name, progress):
    objective = build(name)
    loss, logs = objective(make_views(objective), progress)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value) and not value.requires_grad for value in logs.values())
    loss.backward()
    for path, parameter in objective.named_parameters():
        # Distributed training waits for a gradient of every parameter that is to be trained.
        assert (parameter.grad is not None) == parameter.requires_grad, path
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.backbone.parameters())


@every_objective
def test_forward_moves_no_state_but_batchnorm_statistics(build, make_views, name):
    objective = build(name)
    before = snapshot(objective)
    objective(make_views(objective), 0.5).loss.backward()
    assert all(path.endswith(BATCHNORM) for path in changed(before, snapshot(objective)))


@every_objective
def test_forward_in_evaluation_mode_moves_nothing_at_all(build, make_views, name):
    objective = build(name).eval()
    before = snapshot(objective) | {path: buffer.clone() for path, buffer in objective.named_buffers()}
    objective(make_views(objective), 0.5)
    assert not changed(before, snapshot(objective) | dict(objective.named_buffers()))


@every_objective
def test_after_step_moves_teacher_and_centre_alone(build, make_views, name):
    objective = build(name)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    objective(make_views(objective), 0.5).loss.backward()
    optimizer.step()
    before = snapshot(objective)
    objective.after_step(0.5)
    moved = changed(before, snapshot(objective))
    assert all(path.startswith(("teacher_", "centre")) for path in moved)
    if name == "DINO":
        assert {"centre", "teacher_head.module.mlp.0.weight", "teacher_backbone.module.cls_token"} <= moved
    else:
        assert not moved


@every_objective
def test_teachers_are_not_trained_and_stay_in_evaluation_mode(build, name):
    teachers = [child for path, child in build(name).train().named_children() if path.startswith("teacher_")]
    assert len(teachers) == (2 if name == "DINO" else 0)
    for teacher in teachers:
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize("name", ["MAE", "DINO"])
def test_four_micro_batches_are_one_batch(build, make_views, name):
    whole, parts = build(name), build(name)
    for number in range(3):
        for objective, count in ((whole, 1), (parts, 4)):
            keys = torch.arange(16) + 100 * number
            batches = split(make_views(objective, count=16, seed=number)._replace(keys=keys), count)
            optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
            step(objective, batches, optimizer, seed=count)
    assert not whole.batch_coupled
    assert "Accumulating micro-batches gives" in " ".join(type(whole).__doc__.split())
    torch.testing.assert_close(snapshot(parts), snapshot(whole), atol=1e-5, rtol=1e-5)


def test_simclr_says_that_micro_batches_are_not_one_batch_and_they_are_not(build, make_views):
    whole, parts = build("SimCLR"), build("SimCLR")
    assert SimCLR.batch_coupled
    assert "accumulating micro-batches is not the same" in " ".join(SimCLR.__doc__.split())
    for objective, count in ((whole, 1), (parts, 4)):
        batches = split(make_views(objective, count=16), count)
        step(objective, batches, torch.optim.SGD(objective.parameters(), lr=0.1))
    difference = (whole.backbone.cls_token - parts.backbone.cls_token).abs().max()
    assert difference > 1e-4


@pytest.mark.parametrize("name", ["MAE", "SimCLR"])
def test_one_small_batch_is_learned_by_heart(build, make_views, name):
    objective = build(name)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    views = make_views(objective, count=4)
    losses = [step(objective, [views], optimizer) for _ in range(60)]
    assert losses[-1] < losses[0] / 2


def test_dino_learns_what_a_teacher_at_rest_says(build, make_views):
    objective = build("DINO", momentum=1.0, centre_momentum=1.0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    views = make_views(objective)
    losses = [step(objective, [views], optimizer) for _ in range(60)]
    assert losses[-1] < losses[0]
    # What is left of a cross-entropy is the teacher's own entropy; the excess over it is what can be learned.
    floor = objective(views, 0.5).logs["teacher_entropy"].item()
    assert losses[-1] - floor < (losses[0] - floor) / 2


def test_dino_follows_a_moving_teacher_without_collapse(build, make_views):
    objective = build("DINO")
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    views = make_views(objective)
    excess = []
    for number in range(60):
        loss, logs = objective(views, number / 60)
        excess.append(loss.item() - logs["teacher_entropy"].item())
        step(objective, [views], optimizer, progress=number / 60)
    assert excess[-1] < excess[0] / 2
    assert logs["teacher_entropy"] > 0.1


@every_objective
def test_state_reloaded_into_a_fresh_instance_gives_the_same_loss(build, make_views, name, tmp_path):
    trained, fresh = build(name), build(name, seed=1)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    views = make_views(trained)
    for number in range(3):
        step(trained, [views], optimizer, seed=number)
    torch.save(trained.state_dict(), tmp_path / "state.pt")

    def loss(objective):
        torch.manual_seed(5)
        return objective(views, 0.5).loss.item()

    expected = loss(trained)
    assert loss(fresh) != expected
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert loss(fresh) == expected


@every_objective
def test_encoder_goes_through_a_file_unchanged(build, make_views, tiny_card, name, tmp_path):
    objective = build(name)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    views = make_views(objective)
    step(objective, [views], optimizer)
    save_encoder(objective.encoder, tmp_path, tiny_card)
    images = views.global_[0]
    expected = objective.encoder.eval().forward_features(images)
    torch.testing.assert_close(load_encoder(tmp_path).forward_features(images), expected, atol=0, rtol=0)
    student = objective.backbone.eval().forward_features(images)
    assert torch.equal(student, expected) == (name != "DINO")


@every_objective
def test_bf16_autocast_keeps_the_loss_in_float32(build, make_views, name):
    objective = build(name)
    views = make_views(objective)
    torch.manual_seed(3)
    exact = objective(views, 0.5).loss
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logs = objective(views, 0.5)
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in logs.values())
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.02)
    # A loss computed in bf16 would be one of few values, with 16 zero bits at its end.
    assert loss.item() != loss.bfloat16().item()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.requires_grad)


@every_objective
def test_crops_of_another_size_than_the_backbone_was_made_for_are_taken(build, make_views, name):
    objective = build(name)
    large, local, _ = make_views(objective)
    wider = Views([crop[..., :16].repeat(1, 1, 1, 3) for crop in large], local)
    assert torch.isfinite(objective(wider, 0.5).loss)


@every_objective
@pytest.mark.parametrize(
    "options", [{"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}, {"init_values": 0.1}]
)
def test_backbones_with_registers_and_layer_scale_train_in_every_part(tiny_vit, make_views, name, options):
    small = {"DINO": {"num_prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 8}, "SimCLR": {"hidden_dim": 8}}
    objective = {"MAE": MAE, "DINO": DINO, "SimCLR": SimCLR}[name](tiny_vit(**options), **small.get(name, {}))
    loss, _ = objective(make_views(objective), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.backbone.parameters())


@pytest.mark.parametrize(
    ("kind", "views", "batch_size", "message"),
    [
        (MAE, RandomViews(num_global=2), 4, r"MAE needs 1 large views .* makes 2: set --data\.views\.num_global=1"),
        (DINO, RandomViews(num_global=1), 4, r"DINO needs 2 large views .* makes 1: set --data\.views\.num_global=2"),
        (MAE, RandomViews(num_global=1, num_local=3), 4, "MAE uses no small views, data.views makes 3"),
        (SimCLR, RandomViews(num_global=2, num_local=1), 4, "SimCLR uses no small views"),
        (SimCLR, RandomViews(num_global=2), 1, r"SimCLR needs at least 2 images per device, got .* 1"),
    ],
)
def test_views_and_batches_that_do_not_fit_are_refused_before_the_first_step(
    image_folder, tmp_path, kind, views, batch_size, message
):
    options = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = Pretraining(kind, "vit_tiny_patch16_224", options, image_size=32)
    data = CXRDataModule(str(image_folder), views=views, image_size=32, batch_size=batch_size)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(ConfigError, match=message):
        trainer.fit(model, datamodule=data)
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MAE", {"mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\), got 0.0"),
        ("MAE", {"mask_ratio": 1.0}, r"mask_ratio must be in \(0, 1\), got 1.0"),
        ("MAE", {"decoder_depth": 0}, "decoder_depth must be at least 1, got 0"),
        ("MAE", {"decoder_dim": 30}, "multiple of 4 and of decoder_heads, got 30"),
        ("MAE", {"decoder_heads": 3}, "multiple of 4 and of decoder_heads, got 32 and 3"),
        ("DINO", {"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
        ("DINO", {"centre_momentum": -0.1}, r"centre_momentum must be in \[0, 1\], got -0.1"),
        ("DINO", {"student_temperature": 0.0}, "temperatures must be above 0"),
        ("DINO", {"teacher_temperature_start": -1.0}, "temperatures must be above 0"),
        ("SimCLR", {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(build, name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_mae_refuses_pooling_that_would_stay_untrained(tiny_vit, pool):
    with pytest.raises(ValueError, match="pooling would stay untrained"):
        MAE(tiny_vit(global_pool=pool))


def test_mae_refuses_patches_that_are_not_square(tiny_vit):
    with pytest.raises(ValueError, match=r"MAE predicts square patches, got backbone_options.patch_size \[16, 8\]"):
        MAE(tiny_vit(patch_size=(16, 8)))


def test_an_objective_without_a_loss_says_what_is_missing(tiny_vit):
    class Unfinished(Objective):
        pass

    with pytest.raises(TypeError, match=r"Unfinished must define forward\(views, progress\)"):
        Unfinished(tiny_vit())(Views([], []), 0.0)
