"""Runs one cell: counts the cost of a step, pretrains for the budget, scores the encoder, writes the result."""

import os
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from cxrbase.compare.board import RESULT, SPEC, read_json, write_json
from cxrbase.compare.cell_lock import locked
from cxrbase.compare.cost import build, flops_per_image, seconds_per_image, steps_for
from cxrbase.compare.earlier import COST, MEMORY, RUN, take_over
from cxrbase.compare.heartbeat import alive, say
from cxrbase.compare.lifeline import LIFELINE, end_with_parent
from cxrbase.compare.plan import CONTROL, Axis, Cell, Plan, code_version
from cxrbase.compare.scoring import curve, score_tasks
from cxrbase.devices import device_of
from cxrbase.errors import ConfigError, CXRBaseError


def main(folder: Path) -> int:
    """Runs the cell of a folder once no other process does; what is there already is not done again.

    Returns:
        The exit code.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return _assist(folder)
    with locked(folder), alive(folder):
        if (folder / RESULT).is_file():
            return 0
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        sys.stderr.write(f"begins: process {os.getpid()} on {socket.gethostname()}, GPUs {devices}\n")
        return _work(folder)


def _work(folder: Path) -> int:
    plan, cell = read_spec(folder)
    try:
        if (code := _make_encoder(plan, cell, folder)) != 0:
            return code
        say(folder, stage="scoring")
        tasks = score_tasks(plan, folder / RUN, cell)
    except (CXRBaseError, ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    write_json(folder / RESULT, _result(folder, cell, tasks))
    return 0


def _make_encoder(plan: Plan, cell: Cell, folder: Path) -> int:
    say(folder, stage="counting")
    take_over(folder)
    cost, run = read_json(folder / COST) or _cost(plan, cell), folder / RUN
    write_json(folder / COST, cost)
    if cell.objective == CONTROL:
        _export(cell, run)
    elif not (run / "summary.json").is_file():
        if (code := _pretrain(plan, cell, run, steps=cost["steps"])) != 0:
            return code
        write_json(folder / MEMORY, {"peak_gb": _peak_gb()})
    return 0


def _assist(folder: Path) -> int:
    """The part of a further device: Lightning starts the same command again for each, to pretrain together."""
    plan, cell = read_spec(folder)
    return _pretrain(plan, cell, folder / RUN, steps=(read_json(folder / COST) or {})["steps"])


def read_spec(folder: Path) -> tuple[Plan, Cell]:
    """The comparison and the cell of a folder."""
    spec = read_json(folder / SPEC)
    if spec is None:
        raise ConfigError(f"no {SPEC} in {folder}: give the folder of a cell")
    axes = {name: Axis(**axis) for name, axis in spec["plan"]["axes"].items()}
    return Plan(**(spec["plan"] | {"axes": axes})), Cell(**spec["cell"])


def _cost(plan: Plan, cell: Cell) -> dict[str, Any]:
    if cell.objective == CONTROL:
        return {"flops_per_image": 0.0, "steps": 0, "global_batch": 0}
    module, data = build(cell.settings)
    batch = data.batch_size * cell.devices * cell.settings.get("trainer", {}).get("accumulate_grad_batches", 1)
    cost: dict[str, Any] = {"flops_per_image": flops_per_image(module, data), "global_batch": batch}
    if plan.budget == "seconds":
        cost["seconds_per_image"] = seconds_per_image(module, data, precision=cell.precision, device=device_of())
    amount, flops, seconds = plan.amounts[plan.budget], cost["flops_per_image"], cost.get("seconds_per_image")
    cost["steps"] = steps_for(plan.budget, amount, global_batch=batch, flops=flops, seconds=seconds)
    return cost


def _pretrain(plan: Plan, cell: Cell, run: Path, *, steps: int) -> int:
    from cxrbase.cli import main as command

    words = fit_words(plan, cell, run, steps=steps)
    if (run / "last.ckpt").is_file():
        words.append(f"--ckpt_path={run}")
    return command(["fit", *words])


def fit_words(plan: Plan, cell: Cell, run: Path, *, steps: int) -> list[str]:
    """Words of the `cxrbase fit` that pretrains a cell.

    Args:
        plan: The comparison.
        cell: The cell.
        run: Folder of its run.
        steps: Optimizer steps that its budget is enough for.
    """
    # Test images are scored once, by the suite, and for all cells alike.
    words = [*(f"--config={layer}" for layer in cell.layers), "--probe.test=false", *cell.words]
    words += [f"--run_dir={run}", f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1"]
    words += [f"--probe.every_n_steps={max(1, steps // plan.points)}", f"--probe.resamples={plan.resamples}"]
    words += ["--trainer.callbacks+=cxrbase.compare.heartbeat.Heartbeat", "--trainer.enable_progress_bar=false"]
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        # The GPUs that it was given, which are not those of the machine that a list such as [3] names.
        words.append(f"--trainer.devices={cell.devices}")
    return words


def _export(cell: Cell, run: Path) -> None:
    """Writes the network as it is before the first step, as an encoder like any other."""
    from cxrbase.backbones import save_encoder
    from cxrbase.callbacks.run_record import encoder_card

    module, data = build(cell.settings)
    data.setup("fit")
    module.take_start(mean=data.mean, std=data.std)
    if module.init_from is not None:
        # As a run does, so that what those weights were trained on is known of the control too.
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"model": {"init_from": module.init_from}}), encoding="utf-8")
    save_encoder(module.encoder, run, encoder_card(module, data, images_seen=0, steps=0) | {"objective": CONTROL})


def _result(folder: Path, cell: Cell, tasks: dict[str, Any]) -> dict[str, Any]:
    run = folder / RUN
    cost, summary = read_json(folder / COST) or {}, read_json(run / "summary.json") or {}
    images = summary.get("images_seen", 0)
    kept = ("images_seen", "steps", "wall_s", "images_per_s", "data_wait_fraction", "loss_first", "loss_last",
            "precision", "device", "parameters", "backbone", "image_size", "version")  # fmt: skip
    return {
        "cell": asdict(cell) | {"arm": cell.arm},
        # Weights that its network began with; None for random ones.
        "start": cell.settings.get("model", {}).get("init_from"),
        "cost": cost,
        "spent": {
            "images": images,
            "flops": images * cost["flops_per_image"],
            "seconds": images / summary["images_per_s"] if images else 0.0,
        },
        "summary": {name: summary[name] for name in kept if name in summary},
        # Of the process that pretrained, which may have been another one.
        "peak_memory_gb": (read_json(folder / MEMORY) or {"peak_gb": _peak_gb()})["peak_gb"],
        "tasks": tasks,
        "curve": curve(run, summary, cost),
        "code": code_version(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _peak_gb() -> float:
    import resource

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    if LIFELINE in sys.argv:
        end_with_parent()
    sys.exit(main(Path(sys.argv[1])))
