"""A stream of a million small records: time to the first batch, memory of a worker, and a soak with random kills.

    python benchmarks/million_rows.py --folder runs/million
    python benchmarks/million_rows.py --folder runs/small --rows 20000 --kills 3 --out runs/small.json

The soak runs epochs in a process that is killed by SIGKILL at random moments, itself or one of its workers, and goes on
from its last checkpoint. Every record must then have been handed out exactly once in every epoch.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pyarrow as pa
from _record import save, spread
from jsonargparse import auto_cli

from cxrbase.data.datamodule import CXRDataModule
from cxrbase.data.manifest import SPLITS, Manifest
from cxrbase.data.shards import FORMAT_VERSION, INDEX, PACKED_FIELDS, member_name, parquet_bytes, shard_name, write_tar

_SHARD, _SIDE, _BATCH = 8192, 16, 256
_SPLIT = {0: "val", 1: "test"}  # of two patients, so that nothing is dealt; all splits are drawn


def make(folder: Path, rows: int) -> None:
    """Packs small records, unless they are there."""
    if (folder / INDEX).is_file():
        return
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    bodies = [cv2.imencode(".jpg", rng.integers(0, 255, (_SIDE, _SIDE), np.uint8))[1].tobytes() for _ in range(509)]
    packed: dict[str, list] = {field.name: [] for field in PACKED_FIELDS}
    for block, start in enumerate(range(0, rows, _SHARD)):
        last = min(start + _SHARD, rows)
        members = [(member_name("made", row, "jpeg"), bodies[row % 509]) for row in range(start, last)]
        tar, placed = write_tar(members)
        (folder / shard_name("made", block)).write_bytes(tar)
        for member in placed:
            values = (shard_name("made", block), member.offset, member.size, member.crc32, _SIDE, _SIDE,
                      f"{block:040x}", f"{member.offset:0120x}")  # fmt: skip
            for name, value in zip(packed, values, strict=True):
                packed[name].append(value)
    numbers = range(rows)
    columns = {"path": [f"made/p{n // 6:06}/{n:07}.jpg" for n in numbers], "source": ["made"] * rows,
               "patient_id": [f"p{n // 6:06}" for n in numbers],
               "split": [_SPLIT.get(n // 6, "train") for n in numbers]}  # fmt: skip
    table = Manifest.from_columns(columns, root=folder).table
    for field in PACKED_FIELDS:
        table = table.append_column(field, pa.array(packed[field.name], field.type))
    metadata = {"version": FORMAT_VERSION, "size": _SIDE, "codec": "jpeg", "intensity": "made up"}
    (folder / INDEX).write_bytes(parquet_bytes(table, metadata))


def opened(folder: Path, workers: int) -> CXRDataModule:
    data = CXRDataModule(
        str(folder), image_size=_SIDE, batch_size=_BATCH, num_workers=workers, drop_last=False, pretrain_on=SPLITS
    )
    data.prepare_data()
    data.setup("fit")
    return data


def private_mib(pid: int) -> float:
    """Memory that a process shares with nobody, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [int(child) for child, name in names.items() if b"resource_tracker" not in name]


def measure(folder: str, share: float) -> None:
    """Prints, as JSON, seconds to the first batch and the workers' memory; run in a process of its own."""
    before, start = private_mib(os.getpid()), time.perf_counter()
    data = opened(Path(folder), 2)
    loader = data.train_dataloader()
    # Before there are workers, which share what the main process held until then.
    main = private_mib(os.getpid()) - before
    stream = iter(loader)
    ready = time.perf_counter() - start
    next(stream)
    result = {
        "setup_s": ready,
        "first_batch_s": time.perf_counter() - start,
        "main_mib": main,
    }
    order = time.process_time()
    data.stream.sampler.source.epoch(0, data.stream.sampler.plan)
    result["order_s"] = time.process_time() - order
    memory, count = [], 1
    for count, _ in enumerate(stream, 2):
        if count > share * len(data.stream):
            break
        if count % max(int(share * len(data.stream)) // 8, 1) == 0:
            memory.append([round(private_mib(pid), 1) for pid in workers_of(os.getpid())])
    seconds = time.perf_counter() - start
    result |= {
        "workers_mib_over_the_epoch": memory,
        "batches": count,
        "share_of_epoch": share,
        "records_per_s": count * _BATCH / seconds,
    }
    sys.stdout.write(json.dumps(result))


def run(folder: str, log: str, state: str, epochs: int, every: int) -> None:
    """Goes through epochs from where the state says, and writes down every record."""
    data = opened(Path(folder), 2)
    held = json.loads(Path(state).read_text()) if Path(state).is_file() else {"epoch": 0, "length": 0, "data": {}}
    data.load_state_dict(held["data"])
    loader = data.train_dataloader()
    with open(log, "r+b" if Path(log).is_file() else "w+b") as out:
        # What was written after the checkpoint is drawn again, as in a run whose weights go back to it.
        out.truncate(held["length"])
        out.seek(held["length"])
        for epoch in range(held["epoch"], epochs):
            loader.sampler.set_epoch(epoch)
            for number, batch in enumerate(loader):
                rows = np.stack([np.full(len(batch[2]), epoch), batch[2].numpy()], 1).astype(np.int32)
                out.write(rows.tobytes())
                if number % every == 0:
                    keep(out, state, epoch, data)
            keep(out, state, epoch, data)


def keep(out: BinaryIO, state: str, epoch: int, data: CXRDataModule) -> None:
    out.flush()
    part = Path(state + ".part")
    part.write_text(json.dumps({"epoch": epoch, "length": out.tell(), "data": data.state_dict()}))
    os.replace(part, state)


def soak(folder: Path, rows: int, epochs: int, kills: int, seed: int) -> dict:
    """Kills and restarts a run until it ends, then counts every record."""
    log, state, rng = folder / "log.bin", folder / "state.json", random.Random(seed)
    for path in (log, state):
        path.unlink(missing_ok=True)
    words = [sys.executable, __file__, "run", f"--folder={folder}", f"--log={log}", f"--state={state}",
             f"--epochs={epochs}", "--every=50"]  # fmt: skip
    done, killed, start = False, {"main": 0, "worker": 0}, time.perf_counter()
    marks = sorted(rng.uniform(0.02, 0.98) * rows * epochs * 8 for _ in range(kills))
    while not done:
        process = subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            time.sleep(0.02)
            if marks and log.is_file() and log.stat().st_size >= marks[0]:
                marks.pop(0)
                workers = workers_of(process.pid)
                victim = rng.choice(workers) if workers and rng.random() < 0.5 else process.pid
                killed["main" if victim == process.pid else "worker"] += 1
                os.kill(victim, signal.SIGKILL)
                process.wait(120)
                break
        done = process.returncode == 0
    drawn = np.fromfile(log, np.int32).reshape(-1, 2)
    counts = [np.bincount(drawn[drawn[:, 0] == epoch, 1], minlength=rows) for epoch in range(epochs)]
    return {
        "rows": rows,
        "epochs": epochs,
        "killed": killed,
        "records_not_drawn_exactly_once": [int((count != 1).sum()) for count in counts],
        "minutes": round((time.perf_counter() - start) / 60, 2),
    }


def lines(result: dict) -> list[dict]:
    """What was asked for, and what was seen."""
    start, worker, told = result["start"], result["worker_mib"], result["soak"]
    lost = sum(told["records_not_drawn_exactly_once"])
    rows = [
        ("seconds to the first batch", start["first_batch_s"], "below 2"),
        ("MiB of the main process for the index", start["main_mib"], ""),
        ("MiB of a worker that it shares with nobody, median over the epoch", worker["median"], "below 200"),
        (
            "the same, first and last look",
            [looks[0] for looks in start["workers_mib_over_the_epoch"]][::7],
            "no growth",
        ),
        ("seconds to order an epoch", start["order_s"], ""),
        ("records a second of two workers", start["records_per_s"], ""),
        (
            f"soak: {told['epochs']} epochs, {sum(told['killed'].values())} kills, records not drawn exactly once",
            lost,
            "0",
        ),
    ]
    return [{"what": what, "value": value, "goal": goal} for what, value, goal in rows]


def million(
    folder: str,
    rows: int = 1_040_000,
    share: float = 1.0,
    soak_rows: int = 0,
    epochs: int = 3,
    kills: int = 10,
    out: str = "",
) -> None:
    """Makes the records, measures a start and an epoch, and runs the soak.

    Args:
        folder: Folder for the records.
        rows: Records.
        share: Share of an epoch over which the workers' memory is watched.
        soak_rows: Records of the soak; 0 takes `rows`.
        epochs: Epochs of the soak.
        kills: Processes to kill.
        out: JSON to write; "" takes benchmarks/results/million_rows.json.
    """
    begun = time.perf_counter()
    make(Path(folder), rows)
    result: dict = {"rows": rows, "packing_s": round(time.perf_counter() - begun, 1)}
    once = subprocess.run(
        [sys.executable, __file__, "measure", f"--folder={folder}", f"--share={share}"], capture_output=True, text=True
    )
    result["start"] = json.loads(once.stdout)
    memory = np.array(result["start"]["workers_mib_over_the_epoch"])
    if memory.size:
        result["worker_mib"] = spread(memory.ravel().tolist())
    save("million_rows", result, packages=("torch", "numpy", "pyarrow"), out=out)
    smaller = Path(folder) / "soak" if soak_rows else Path(folder)
    make(smaller, soak_rows or rows)
    result["soak"] = soak(smaller, soak_rows or rows, epochs, kills, seed=0)
    result["table"] = lines(result)
    print(save("million_rows", result, packages=("torch", "numpy", "pyarrow"), out=out).read_text())


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("run", "measure"):
        auto_cli({"run": run, "measure": measure}, as_positional=False)
    else:
        auto_cli(million, as_positional=False)
