"""A run that is scored after Lightning has let go of its device is scored on that device all the same."""

from functools import partial

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from cxrbase.callbacks.figures import Figures
from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.callbacks.run_record import RunRecord
from cxrbase.callbacks.throughput import Throughput
from cxrbase.objectives import MAE
from cxrbase.pretraining import Pretraining
from small_runs import OPTIONS


class Noted(Figures):
    """Notes where the network is in place of drawing it."""

    def on_train_end(self, trainer, pl_module):
        """Notes the devices of all weights."""
        self.devices = {parameter.device.type for parameter in pl_module.parameters()}


def test_what_follows_the_last_step_is_done_on_the_device_of_the_run():
    module = Pretraining(partial(MAE, decoder_depth=1), "vit_tiny_patch16_224", OPTIONS, image_size=32)
    noted = Noted()
    # The one device besides the CPU that every machine has: nothing is computed on it.
    strategy = SingleDeviceStrategy(torch.device("meta"))
    trainer = L.Trainer(
        accelerator="cpu", strategy=strategy, callbacks=[noted], logger=False, enable_checkpointing=False
    )
    trainer.strategy.connect(module)
    trainer.strategy.teardown()
    assert module.device.type == "cpu"
    RunRecord(Throughput(), FrozenProbe())._finish(trainer, module)
    assert noted.devices == {"meta"}
