"""What is random in a step of pretraining is of its own seed, epoch and number."""

import lightning as L
import pytest
import torch

import small_runs

pytestmark = pytest.mark.filterwarnings("ignore")


class Look(L.Callback):
    def __init__(self):
        self.seeds = []

    def on_train_batch_end(self, *args):
        self.seeds.append(torch.initial_seed())


def test_every_step_of_every_epoch_draws_anew_and_so_does_every_seed(image_folder):
    drawn = []
    for seed in (0, 0, 1):
        look = Look()
        small_runs.train("mae", image_folder, callbacks=[look], model={"seed": seed}, steps=6)
        drawn.append(look.seeds)
    first, again, other = drawn
    assert len(set(first)) == 6  # of two epochs: 28 images of the folder make three batches
    assert first == again
    assert not set(first) & set(other)
