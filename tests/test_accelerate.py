"""Compiled blocks and recomputed activations change how a step runs and not what comes out."""

import copy
import json
import os

import pytest
import torch
from timm.models.vision_transformer import Block
from torch._inductor.runtime.cache_dir_utils import cache_dir

from commands import command
from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.cli import main
from cxrbase.errors import ConfigError
from cxrbase.objectives import DINO, MAE
from cxrbase.views import Views

OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def made(kind, drop_path=0.0):
    torch.manual_seed(0)
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=OPTIONS, drop_path=drop_path)
    if kind is MAE:
        return MAE(vit, decoder_dim=32, decoder_depth=3)
    return DINO(vit, num_prototypes=64, hidden_dim=64, bottleneck_dim=32)


def views(objective):
    generator = torch.Generator().manual_seed(1)
    large = [torch.randn(4, 1, 32, 32, generator=generator) for _ in range(objective.num_global_views)]
    return Views(large, [torch.randn(4, 1, 16, 16, generator=generator)] if objective.uses_local_views else [])


def gradients(objective):
    torch.manual_seed(2)
    loss = objective(views(objective), 0.5).loss
    loss.backward()
    return loss.detach(), [p.grad for p in objective.parameters() if p.requires_grad]


@pytest.mark.parametrize("kind", [MAE, DINO])
@pytest.mark.parametrize(
    "options",
    [
        {"recompute": True},
        {"compiled": "aot_eager"},
        {"compiled": "cudagraphs"},  # which records no graph on a CPU, and says so
        {"compiled": "aot_eager", "recompute": True},
        pytest.param({"compiled": True}, marks=pytest.mark.slow),
    ],
)
def test_the_same_loss_and_gradient(kind, options):
    expected = gradients(made(kind, drop_path=0.2))
    objective = made(kind, drop_path=0.2)
    assert accelerate(objective, **options) == {MAE: 5, DINO: 4}[kind]
    exact = "compiled" not in options
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(gradients(objective), expected, **tolerance)


def test_recomputed_blocks_keep_less(monkeypatch):
    def kept(objective):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective(views(objective), 0.5)
        return total

    objective = made(MAE)
    before = kept(objective)
    accelerate(objective, recompute=True)
    assert kept(objective) < 0.5 * before


def test_weights_and_their_names_stay_and_copies_work():
    objective = made(DINO)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    accelerate(objective, compiled="eager", recompute=True)
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)
    copied = copy.deepcopy(objective)
    assert isinstance(copied.backbone.blocks[0], Block)
    with torch.no_grad():
        copied.backbone.blocks[0].mlp.fc1.weight.zero_()
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)


def test_nothing_is_changed_where_nothing_is_asked_for_and_wrong_names_are_refused():
    assert accelerate(made(MAE)) == 0
    with pytest.raises(ConfigError, match=r"no backend of torch.compile; there are: .*inductor"):
        accelerate(made(MAE), compiled="inductr")


def test_compiled_code_is_kept_beside_other_caches_or_where_it_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    accelerate(made(MAE))
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    accelerate(made(MAE), compiled="eager")
    assert cache_dir() == str(tmp_path / "cxrbase" / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    accelerate(made(MAE), compiled="eager")
    assert cache_dir() == str(tmp_path / "mine")


@pytest.mark.parametrize("kind", [MAE, DINO])
def test_images_and_stem_are_channels_last_as_they_are(kind):
    objective = made(kind)
    for tensor in (*views(objective).global_, objective.backbone.patch_embed.proj.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_a_run_with_both_options_ends_where_one_without_does(fit, image_folder, tmp_path):
    plain = fit("mae", "--trainer.max_steps=2")
    words = ["--model.compile=aot_eager", "--model.recompute=true", "--trainer.max_steps=2"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "faster")) == 0
    faster = json.loads((tmp_path / "faster" / "summary.json").read_text())
    assert faster["loss_last"] == pytest.approx(plain["loss_last"], rel=1e-5)


def test_cuda_graphs_are_a_word_of_the_command_line(fit):
    assert fit("mae", "--model.compile=cudagraphs")["steps"] == 2


def test_an_unknown_backend_is_refused_in_one_sentence(image_folder, tmp_path, capfd):
    assert main(command("mae", "--model.compile=inductr", root=image_folder, run_dir=tmp_path / "run")) != 0
    assert "there are: " in capfd.readouterr().err
