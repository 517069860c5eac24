"""Every published layout from folder to step: packed, audited, streamed without what the audit names, learnt from."""

from functools import partial

import lightning as L
import pytest
import torch

from cxrbase.data.audit import audit_sets
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.manifest import SPLITS
from cxrbase.data.pack import pack
from cxrbase.data.pack_image import ImageOptions
from cxrbase.data.selection import Selection
from cxrbase.objectives import MAE
from cxrbase.pretraining import Pretraining
from data.sources.trees_large import MAKERS
from data.sources.trees_small import TREES

LAYOUTS = {**MAKERS, **TREES}
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_layout_is_packed_audited_streamed_and_learnt_from(name, tmp_path):
    torch.set_num_threads(1)
    LAYOUTS[name](tmp_path / "root")
    out = tmp_path / "pack"
    done = pack([(name, str(tmp_path / "root"))], out, options=ImageOptions(size=48), max_bad=1, jobs=1, partial=True)
    found = audit_sets([out], tmp_path / "audit", threads=1)
    assert found["sets"][0]["images"] == done.images
    assert (found["unreadable"], found["unverified_candidates"]) == ([], 0)
    select = Selection(exclude=[str(tmp_path / "audit" / "exclude.csv")])
    data = CXRDataModule(
        str(out), image_size=32, batch_size=1, drop_last=False, select=select, pretrain_on=list(SPLITS)
    )
    module = Pretraining(partial(MAE, decoder_depth=1), "vit_tiny_patch16_224", VIT, image_size=32)
    before = {key: value.clone() for key, value in module.encoder.state_dict().items()}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, **QUIET)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == done.images - found["excluded"]
    assert any(not torch.equal(value, before[key]) for key, value in module.encoder.state_dict().items())
