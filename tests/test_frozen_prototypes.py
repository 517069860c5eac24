"""DINO's prototypes rest for the share of a run that is asked for, and then begin as Adam begins."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from small_runs import train

pytestmark = pytest.mark.filterwarnings("ignore")


class Watch(Callback):
    """Keeps the prototypes before the first step and after every one."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(pl_module.objective.head.prototypes.weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.seen):
            self.on_train_start(trainer, pl_module)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_they_stay_as_they_are_and_their_first_step_is_adams_first(clip, accumulated, image_folder):
    watch = Watch()
    train(
        "dino",
        image_folder,
        batch_size=8 // accumulated,
        steps=6,
        callbacks=[watch],
        model={"weight_decay": 0.5, "warmup": 0.0, "min_lr": 1.0},
        accumulate_grad_batches=accumulated,
        gradient_clip_val=clip,
    )
    start, rate = watch.seen[0], 0.032 * 8 / 256
    assert len(watch.seen) == 7
    assert all(torch.equal(seen, start) for seen in watch.seen[:4])
    # Whatever a gradient is, the first step of Adam goes as far as the learning rate.
    moved = (start * (1 - rate * 0.5) - watch.seen[4]).abs() / rate
    assert float(moved.median()) == pytest.approx(1, abs=0.02)
    assert float(moved.max()) < 1.02
