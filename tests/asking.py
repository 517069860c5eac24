"""Sees the operations whose result, or whose size, the host must know before it can go on."""

import json
import sys
import traceback
from pathlib import Path

import lightning as L
from torch.utils._python_dispatch import TorchDispatchMode

from cxrbase.cli import main

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "_unique2", "unique_dim", "equal"}
HOST = ("cxrbase/data/quarantine.py",)  # counts in memory that worker processes share


class Asked(AssertionError):
    """The host would have waited for the device."""


def asks(func, args):
    name = func.overloadpacket.__name__
    indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return name in ASKING or any(i is not None and str(i.dtype) == "torch.bool" for i in indices)


class AskNothing(TorchDispatchMode):
    """Fails on such operations."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if asks(func, args):
            raise Asked(f"{func} in the step")
        return func(*args, **(kwargs or {}))


class Questions(TorchDispatchMode):
    """Notes them, with the optimizer steps that were done.

    Attributes:
        steps: Steps of AdamW, which has two groups of parameters.
        asked: Steps done and where in this package or in Lightning, for each question.
    """

    def __init__(self):
        super().__init__()
        self._groups, self.asked = 0, []

    @property
    def steps(self):
        return self._groups // 2

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._groups += func.overloadpacket.__name__ == "_fused_adamw_"
        if asks(func, args):
            frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack() if "/torch/" not in f.filename]
            if not any(host in frame for host in HOST for frame in frames):
                self.asked.append((self.steps, frames[-3:]))
        return func(*args, **(kwargs or {}))


class Reads(L.Callback):
    """What a callback of the command line must not do."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        float(trainer.callback_metrics["train/loss"])


def questions(words):
    """Runs a command; steps it made, and the questions after the first step and before the last."""
    with Questions() as seen:
        assert main(words) == 0
    return seen.steps, [where for step, where in seen.asked if 0 < step < seen.steps]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(questions(sys.argv[2:])))
