"""Bytes that a training step holds at its peak, per objective and size, and the largest batch that they leave room for.

    python benchmarks/memory.py

What is counted: every tensor that is alive at once in a step (weights, teacher, gradients, optimiser state,
activations, temporaries, autocast's copies of weights), by its storage, as PyTorch hands them out. The step runs on
tensors without values, so nothing is computed and no size is too large; `--real true` runs on tensors with values and
counts the same. Not counted: what an allocator rounds up and keeps, workspaces inside kernels, the CUDA context,
compiled code. The column for a GPU is filled by measurement alone, and is empty without one.
"""

import weakref
from contextlib import nullcontext
from typing import Any

import torch
from _record import headline, save, table
from jsonargparse import auto_cli
from throughput import OBJECTIVES, settings
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.objectives import Objective
from cxrbase.optim import param_groups
from cxrbase.sizes import Size, height_width
from cxrbase.views import RandomViews, Views

ROOM = 80e9
_EACH = "MB an image"
_LARGEST = "largest batch in 80 GB, computed"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.hold(value)
        return result


def build(name: str, size: str) -> tuple[Objective, RandomViews, Size]:
    """The objective and the views of the YAML layers, and the size of a large view."""
    given = settings(name, size)
    model, data = given["model"], given["data"]
    image_size = data["image_size"]
    vit = create_backbone(model["backbone"], image_size=image_size, options=model.get("backbone_options") or {})
    objective = OBJECTIVES[name](vit, **model["objective"].get("init_args", {}))
    return objective, RandomViews(**data["views"]["init_args"]), image_size


def make_views(views: RandomViews, image_size: Size, count: int) -> Views:
    """Views of noise, of the sizes of a real batch."""
    large, small = height_width(image_size), height_width(views.local_pixels(image_size))
    return Views(
        [torch.randn(count, 1, *large) for _ in range(views.num_global)],
        [torch.randn(count, 1, *small) for _ in range(views.num_local)],
    )


def without_values(tensor: Tensor, fake: FakeTensorMode | None) -> Tensor:
    """A tensor of the same shape that holds no values; with no mode, the tensor itself."""
    if fake is None:
        return tensor
    empty = fake.from_tensor(tensor)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def step(objective: Objective, optimizer: torch.optim.Optimizer, batch: Views, *, precision: str) -> None:
    """Forward, backward, optimiser and teacher."""
    device = batch.global_[0].device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = objective(batch, 0.5).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step(0.5)


def counted_bytes(
    name: str, size: str, counts: tuple[int, ...], *, precision: str, real: bool
) -> dict[bool, list[int]]:
    """Most bytes alive at once in a step that has the optimiser's state from the start, by whether blocks recompute.

    Args:
        name: Of the objective.
        size: Name in experiments/size.
        counts: Images of the batches.
        precision: 32-true or bf16-mixed.
        real: Whether tensors have values.
    """
    # timm asks for values while it builds, so that comes before.
    objective, views, image_size = build(name, size)
    fake, counter = None if real else FakeTensorMode(), LiveBytes()
    peaks: dict[bool, list[int]] = {False: [], True: []}
    with fake or nullcontext(), counter:
        for module in objective.modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:
                        tensors[key] = without_values(tensor, fake)
                        counter.hold(tensors[key])
        optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-5, foreach=False, fused=False)
        step(objective, optimizer, make_views(views, image_size, 2), precision=precision)
        for recompute in (False, True):
            accelerate(objective, recompute=recompute)
            for count in counts:
                optimizer.zero_grad()
                counter.peak = counter.now
                step(objective, optimizer, make_views(views, image_size, count), precision=precision)
                peaks[recompute].append(counter.peak)
    return peaks


def measured_bytes(name: str, size: str, count: int, *, precision: str, recompute: bool) -> int | None:
    """What a GPU had allocated at the peak of the second step; None without one, or where it was too much for it."""
    if not torch.cuda.is_available():
        return None
    objective, views, image_size = build(name, size)
    accelerate(objective.cuda(), recompute=recompute)
    optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-5, fused=True)
    made = make_views(views, image_size, count)
    batch = Views([view.cuda() for view in made.global_], [view.cuda() for view in made.local])
    try:
        for _ in range(2):
            optimizer.zero_grad()
            torch.cuda.reset_peak_memory_stats()
            step(objective, optimizer, batch, precision=precision)
    except torch.OutOfMemoryError:
        return None
    return int(torch.cuda.max_memory_allocated())


def memory(
    sizes: list[str] = ["vit_s16", "vit_b16", "vit_l16"],  # noqa: B006
    objectives: list[str] = list(OBJECTIVES),  # noqa: B006
    precision: str = "bf16-mixed",
    batches: tuple[int, int] = (512, 1024),
    measured_batch: int = 64,
    real: bool = False,
    out: str = "",
) -> None:
    """Counts and writes JSON.

    Args:
        sizes: Names in experiments/size.
        objectives: mae, dino, simclr.
        precision: 32-true or bf16-mixed.
        batches: Two batch sizes; the difference of their peaks is what an image costs. Large enough that the peak is in
            the backward pass and not in the optimiser's step.
        measured_batch: Images of the batch that is counted and, on a GPU, measured.
        real: Whether to run on tensors with values, which takes the time and memory of real steps.
        out: JSON to write; "" takes benchmarks/results/memory.json.
    """
    rows: list[dict[str, Any]] = []
    counts = (measured_batch, *batches)
    for size in sizes:
        for name in objectives:
            for recompute, peaks in counted_bytes(name, size, counts, precision=precision, real=real).items():
                how = {"objective": name, "size": size, "recompute": "yes" if recompute else "no"}
                measured = measured_bytes(name, size, measured_batch, precision=precision, recompute=recompute)
                rows.append(how | row(counts, peaks, measured))
    lines = [
        headline(f"{r['objective']} {r['size']}, {what}", r[key], unit)
        for r in rows
        if r["recompute"] == "no"
        for what, key, unit in (("peak of an image", _EACH, "MB"), (_LARGEST, _LARGEST, "images"))
    ]
    result = {
        "table": rows,
        "headlines": lines,
        "precision": precision,
        "room_gb": ROOM / 1e9,
        "batches": list(batches),
    }
    path = save("memory", result, packages=("torch", "timm", "lightly"), out=out)
    print(table(rows), path, sep="\n")


def row(counts: tuple[int, int, int], peaks: list[int], measured: int | None) -> dict[str, Any]:
    """What the peaks of the two larger batches say of an image and of the largest batch."""
    each = (peaks[2] - peaks[1]) / (counts[2] - counts[1])
    fixed = peaks[1] - each * counts[1]
    return {
        "fixed GB": round(fixed / 1e9, 3),
        _EACH: round(each / 1e6, 1),
        _LARGEST: int((ROOM - fixed) // each),
        f"GB at {counts[0]} images, counted": round(peaks[0] / 1e9, 3),
        f"GB at {counts[0]} images, measured on a GPU": None if measured is None else round(measured / 1e9, 3),
    }


if __name__ == "__main__":
    auto_cli(memory, as_positional=False)
