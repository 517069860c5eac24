"""Compiled blocks and recomputed activations change how a step runs and not what comes out."""

import copy
import json
import os

import pytest
import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import _dynamo as dynamo
from torch._dynamo.backends.registry import register_backend
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.runtime.cache_dir_utils import cache_dir

from commands import command
from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.cli import main
from cxrbase.drop_path import SharedDropPath
from cxrbase.errors import ConfigError
from cxrbase.objectives import DINO, MAE, SimCLR
from cxrbase.views import Views

OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def made(kind, drop_path=0.0, depth=2):
    torch.manual_seed(0)
    options = OPTIONS | {"depth": depth}
    vit = create_backbone("vit_tiny_patch16_224", image_size=32, options=options, drop_path=drop_path)
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
        {"compiled": "aot_eager", "recompute": True},
        pytest.param({"compiled": True}, marks=pytest.mark.slow),
    ],
)
def test_the_same_loss_and_gradient(kind, options):
    expected = gradients(made(kind, drop_path=0.2))
    objective = made(kind, drop_path=0.2)
    assert accelerate(objective, **options) == {MAE: 5, DINO: 4}[kind]
    (loss, found), (wanted, all_wanted) = gradients(objective), expected
    exact = "compiled" not in options
    torch.testing.assert_close(loss, wanted, **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}))
    for gradient, one in zip(found, all_wanted, strict=True):
        # Sums of float32 in another order differ by their largest terms, which here may cancel.
        rounding = {"rtol": 1e-4, "atol": 1e-5 + 2e-6 * float(one.abs().max())}
        torch.testing.assert_close(gradient, one, **({"rtol": 0, "atol": 0} if exact else rounding))


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


@pytest.mark.parametrize(
    ("kind", "recompute"),
    [
        (DINO, False),
        (MAE, True),
        pytest.param(MAE, False, marks=pytest.mark.slow),
        pytest.param(DINO, True, marks=pytest.mark.slow),
    ],
)
def test_blocks_of_one_kind_share_compiled_code_whatever_their_rates(kind, recompute):
    torch._dynamo.reset()
    counter, name = CompileCounterWithBackend("eager"), f"counted_{kind.__name__}_{recompute}"
    register_backend(counter, name)
    expected = gradients(made(kind, drop_path=0.1, depth=12))
    objective = made(kind, drop_path=0.1, depth=12)
    accelerate(objective, compiled=name, recompute=recompute)
    with dynamo.config.patch(fail_on_recompile_limit_hit=True):
        found = gradients(objective)
    # DINO: usual and last blocks of the student for each size of crop, and of the teacher. MAE: the encoder's, and the
    # first, the middle and the last of the decoder.
    assert counter.frame_count == {MAE: 4, DINO: 6}[kind]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_stochastic_depth_draws_what_timm_draws():
    tokens = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(1))
    for rate, scale in ((0.0, True), (0.3, True), (0.3, False), (1.0, True)):
        theirs, mine = DropPath(rate, scale), SharedDropPath(rate, scale=scale)
        for training in (True, False):
            torch.manual_seed(0)
            expected, state = theirs.train(training)(tokens), torch.get_rng_state()
            torch.manual_seed(0)
            assert torch.equal(mine.train(training)(tokens), expected)
            assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"recompute": True}, {"compiled": "eager"}])
def test_blocks_of_another_kind_than_timms_usual_ones_are_changed_too(options):
    def parallel():
        torch.manual_seed(0)
        shape = {"depth": 3, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
        name = "vit_small_patch16_18x2_224"
        return SimCLR(create_backbone(name, image_size=32, options=shape, drop_path=0.2), hidden_dim=32)

    objective = parallel()
    assert accelerate(objective, **options) == 3
    torch.testing.assert_close(gradients(objective), gradients(parallel()), rtol=0, atol=0)


def test_a_network_without_blocks_cannot_be_changed():
    with pytest.raises(ConfigError, match="the network has none: leave them out"):
        accelerate(torch.nn.Linear(2, 2), recompute=True)


@pytest.mark.parametrize(
    ("backend", "said"), [("inductr", "there are: "), ("cudagraphs", "'cudagraphs', which would record every block")]
)
def test_a_backend_that_cannot_be_is_refused_in_one_sentence(backend, said, image_folder, tmp_path, capfd):
    assert main(command("mae", f"--model.compile={backend}", root=image_folder, run_dir=tmp_path / "run")) != 0
    assert said in capfd.readouterr().err
