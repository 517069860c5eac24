"""MoCo-v3 as a user would add it, outside the package: one file and one YAML, through the real command line."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import warm
from cxrbase.backbones import load_encoder
from cxrbase.pretraining import Pretraining

REPOSITORY = Path(__file__).parents[2]
MODULE = '''\
"""MoCo-v3: a predictor of the student's keys among the momentum teacher's."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cxrbase.objectives import Loss, MomentumTeacher, Objective
from cxrbase.optim import cosine
from cxrbase.views import Views


def mlp(*widths: int) -> nn.Sequential:
    layers = []
    for width_in, width_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class MoCoV3(Objective):
    """Contrast with a momentum teacher (Chen et al. 2021, https://arxiv.org/abs/2104.02057).

    Args:
        backbone: The shared ViT.
        hidden_dim: Hidden width of projector and predictor.
        projection_dim: Width of the space that is contrasted.
        temperature: Temperature of the similarities.
        momentum: The teacher's momentum at the start; it rises to 1 along a cosine.
    """

    num_global_views = 2
    min_batch_size = 2
    batch_coupled = True

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(backbone)
        self.temperature, self.momentum = temperature, momentum
        self.projector = mlp(backbone.embed_dim, hidden_dim, hidden_dim, projection_dim)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)
        self.teacher_backbone, self.teacher_projector = MomentumTeacher(backbone), MomentumTeacher(self.projector)

    def forward(self, views: Views, progress: float) -> Loss:
        images = torch.cat(views.global_)
        queries = self.predictor(self.projector(self.backbone(images))).chunk(2)
        keys = self.teacher_projector(self.teacher_backbone(images)).chunk(2)
        return Loss(self.contrast(queries[0], keys[1]) + self.contrast(queries[1], keys[0]), {})

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        queries, keys = F.normalize(queries.float(), dim=-1), F.normalize(keys.float(), dim=-1)
        labels = torch.arange(len(queries), device=queries.device)
        return 2 * self.temperature * F.cross_entropy(queries @ keys.T / self.temperature, labels)

    def after_step(self, progress: float) -> None:
        momentum = cosine(progress, start=self.momentum, end=1.0)
        self.teacher_backbone.update(self.backbone, momentum)
        self.teacher_projector.update(self.projector, momentum)
'''
YAML = """\
model:
  objective:
    class_path: moco_v3.MoCoV3
    init_args:
      hidden_dim: 64
      projection_dim: 32
data:
  views:
    class_path: cxrbase.views.RandomViews
    init_args:
      num_global: 2
      num_local: 0
      jitter: 0.8
      blur: 0.5
"""


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "moco_v3.py").write_text(MODULE)
    (folder / "moco_v3.yaml").write_text(YAML)
    return folder


@pytest.fixture
def moco(user_folder, tiny_vit, monkeypatch):
    spec = importlib.util.spec_from_file_location("moco_v3", user_folder / "moco_v3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "moco_v3", module)
    return module.MoCoV3(tiny_vit(), hidden_dim=64, projection_dim=32, momentum=0.9)


def snapshot(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_one_file_and_one_yaml_pretrain_through_the_command_line(user_folder, image_folder, moco, tmp_path):
    run = tmp_path / "run"
    layers = ["experiments/base.yaml", user_folder / "moco_v3.yaml", "experiments/size/tiny.yaml"]
    configs = [word for layer in [*layers, "experiments/data/folder.yaml"] for word in ("--config", str(layer))]
    options = {
        "data.root": image_folder,
        "data.batch_size": 8,
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "figures.enabled": "false",
        "run_dir": run,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"PYTHONPATH": f"{user_folder}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    done = warm.run(["-m", "cxrbase", "fit", *configs, *words], cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run / "encoder.safetensors").is_file()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["objective"], summary["steps"]) == ("MoCoV3", 2)
    restored = Pretraining.load_from_checkpoint(run / "last.ckpt", weights_only=True, map_location="cpu")
    images = torch.randn(2, 1, summary["image_size"], summary["image_size"])
    expected = restored.encoder.eval().forward_features(images)
    torch.testing.assert_close(load_encoder(run).forward_features(images), expected, atol=0, rtol=0)


def test_loss_is_finite_and_reaches_every_trainable_parameter(moco, make_views):
    loss, _ = moco(make_views(moco), 0.0)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in moco.parameters())
    assert all(p.grad.abs().sum() > 0 for p in moco.backbone.parameters())


def test_forward_moves_batchnorm_statistics_alone(moco, make_views):
    before = snapshot(moco)
    moco(make_views(moco), 0.0).loss.backward()
    moved = changed(before, snapshot(moco))
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
    assert not any(name.startswith("teacher_") for name in moved)


def test_after_step_moves_the_teacher_alone_and_copies_its_batchnorm_statistics(moco, make_views):
    optimizer = torch.optim.SGD([p for p in moco.parameters() if p.requires_grad], lr=0.1)
    moco(make_views(moco), 0.5).loss.backward()
    optimizer.step()
    before = snapshot(moco)
    moco.after_step(0.5)
    after = snapshot(moco)
    moved = changed(before, after)
    assert moved
    assert all(name.startswith("teacher_") for name in moved)
    for name, value in moco.projector.state_dict().items():
        held = after[f"teacher_projector.module.{name}"]
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(held, value)
        else:
            expected = 0.95 * before[f"teacher_projector.module.{name}"] + 0.05 * value
            torch.testing.assert_close(held, expected, rtol=1e-5, atol=1e-6)


def test_one_small_batch_is_learned_by_heart(moco, make_views):
    optimizer = torch.optim.AdamW([p for p in moco.parameters() if p.requires_grad], lr=3e-3)
    views = make_views(moco)
    losses = []
    for number in range(40):
        loss = moco(views, number / 40).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moco.after_step(number / 40)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
