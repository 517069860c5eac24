"""Weights spread over two processes, through the command: saved, resumed, resumed without, exported."""

import json
import subprocess
import sys

import pytest
import torch

from commands import command
from cxrbase.backbones import load_encoder
from cxrbase.cli import main
from cxrbase.data.phantom import make_phantom
from cxrbase.errors import ConfigError
from cxrbase.sharding import is_sharded, local, refuse_unfit
from two_processes import end_two, free_port, start_two

WORDS = ["--trainer.max_steps=4", "--trainer.max_epochs=9", "--checkpoint.every_n_train_steps=2"]
WORDS += ["--checkpoint.save_top_k=-1", "--probe.monitor_every=2", "--probe.resamples=20"]
SPREAD = ["--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy", "--trainer.devices=2"]
SPREAD += ["--trainer.strategy.data_parallel_size=2", "--trainer.strategy.tensor_parallel_size=1"]
SPREAD += ["--trainer.strategy.save_distributed_checkpoint=false", "--data.batch_size=4"]


def in_two_processes(words):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    launch += [f"--master-port={free_port()}", "-m", "cxrbase", *words]
    done = subprocess.run(launch, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def held(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", "dino", "simclr"])
def test_a_spread_run_is_saved_resumed_and_exported_as_any_other(name, tmp_path):
    root = tmp_path / "phantom"
    make_phantom(root, patients=30, image_size=40, seed=1, workers=1)
    places = {"root": root, "run_dir": tmp_path / "all"}
    # The prototypes still rest when the checkpoint is saved that the others go on from.
    words = [*WORDS, "--model.objective.freeze_prototypes=0.6"] if name == "dino" else WORDS
    in_two_processes(command(name, *words, *SPREAD, **places, figures=True))
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert summary["objective"].lower() == name
    assert summary["probe"] is not None
    assert (tmp_path / "all" / "figures" / "attention.png").is_file()
    whole = held(tmp_path / "all")
    assert all(type(value) is torch.Tensor for value in whole["state_dict"].values())
    prefix = "objective.teacher_backbone.module." if name == "dino" else "objective.backbone."
    for key, value in load_encoder(tmp_path / "all").state_dict().items():
        torch.testing.assert_close(value, whole["state_dict"][prefix + key], rtol=0, atol=0)

    (half,) = (tmp_path / "all").glob("*step=2.ckpt")
    again = [f"--ckpt_path={half}"]
    in_two_processes(command(name, *words, *SPREAD, *again, root=root, run_dir=tmp_path / "resumed"))
    resumed = held(tmp_path / "resumed")
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    states = [end["optimizer_states"][0]["state"] for end in (resumed, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)

    one = command(name, *words, "--data.batch_size=8", *again, root=root, run_dir=tmp_path / "one")
    assert main(one) == 0
    torch.testing.assert_close(held(tmp_path / "one")["state_dict"], whole["state_dict"], rtol=1e-3, atol=2e-4)


def test_other_ways_of_spreading_are_refused():
    with pytest.raises(ConfigError, match="data_parallel_size=4"):
        refuse_unfit(2, 4, several_files=False)
    with pytest.raises(ConfigError, match="save_distributed_checkpoint=false"):
        refuse_unfit(4, 4, several_files=True)


def test_all_processes_begin_with_the_weights_of_the_first(tmp_path):
    script = tmp_path / "spread.py"
    script.write_text(
        "import os, sys, torch\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "from cxrbase.sharding import full_state, shard\n"
        "rank = int(os.environ['RANK'])\n"
        "torch.manual_seed(rank)\n"
        "layer = torch.nn.BatchNorm1d(4)\n"
        "torch.nn.init.normal_(layer.weight)\n"
        "layer.running_mean.fill_(rank + 1)\n"
        "torch.save(layer.state_dict(), f'{sys.argv[1]}/drawn{rank}.pt')\n"
        "shard(layer, init_device_mesh('cpu', (2,)))\n"
        "torch.save(full_state(layer), f'{sys.argv[1]}/spread{rank}.pt')\n"
        "torch.distributed.destroy_process_group()\n"
    )
    end_two(start_two(lambda rank: [str(script), str(tmp_path)]))
    first = torch.load(tmp_path / "drawn0.pt")
    assert not torch.equal(torch.load(tmp_path / "drawn1.pt")["weight"], first["weight"])
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"spread{rank}.pt"), first, rtol=0, atol=0)


def test_what_is_not_spread_is_local_as_it_is():
    layer = torch.nn.Linear(2, 2)
    assert not is_sharded(layer)
    assert local(layer.weight).data_ptr() == layer.weight.data_ptr()
