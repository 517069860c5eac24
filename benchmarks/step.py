"""How long a training step takes beside transformers' and lightly's: same recipe, same weights, in alternating rounds.

    OMP_NUM_THREADS=1 python benchmarks/step.py --size vit_small

MAE against `transformers` ViTMAE and lightly's encoder and decoder; DINO and SimCLR against lightly's example recipes
(one forward a crop, DINOLoss, NTXentLoss, update_momentum) around the same ViT and heads. Same start, batch and
optimiser (AdamW as each side would use it: fused here, torch's default there), float32, no stochastic depth. A step is
forward, backward, optimiser and teacher.

The floor is the time the products of our step take at the best rate that a product of these shapes reached, measured in
the same rounds. On a CPU time is the process's own, because others may share the machine; on a GPU the step and the
products are in bfloat16, and model FLOPs utilisation (MFU) is the step's FLOP rate over what the maker says of the GPU.
"""

import resource
import time
from collections.abc import Callable

import torch
from _peers import DINO_SHAPE, PEERS
from _record import alternate, headline, save, spread, summary, table
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cxrbase.accelerate import accelerate
from cxrbase.backbones import create_backbone
from cxrbase.objectives import DINO, MAE, Objective, SimCLR
from cxrbase.optim import param_groups
from cxrbase.views import Views

BACKBONES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}
RECIPES: dict[str, tuple[type[Objective], dict]] = {
    "mae_0.90_512x2": (MAE, {"mask_ratio": 0.9, "decoder_dim": 512, "decoder_depth": 2, "decoder_heads": 16}),
    "mae_0.75_512x8": (MAE, {"mask_ratio": 0.75, "decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}),
    "dino_2+8": (DINO, DINO_SHAPE),
    "simclr": (SimCLR, {}),
}


# Dense bfloat16 FLOP a second, by name of the GPU, as in NVIDIA's data sheets (half of the numbers "with sparsity").
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
GOALS = {"cpu": 0.80, "cuda": 0.70}
FLOOR_GOAL = 0.85
MFU_GOALS = {("mae", "vit_large"): 0.50, ("dino", "vit_base"): 0.45}  # on an H100


def step_time(
    size: str = "vit_small",
    recipes: list[str] = list(RECIPES),  # noqa: B006
    batch_size: int = 8,
    rounds: int = 3,
    compiled: bool = False,
    out: str = "",
) -> None:
    """Measures and writes JSON.

    Args:
        size: vit_tiny, vit_small, vit_base or vit_large, patches of 16 at 224 pixels.
        recipes: Names in RECIPES.
        batch_size: Images a step; DINO takes a quarter of them, for its ten crops.
        rounds: Rounds; in each every side has its turn.
        compiled: Whether our blocks are compiled.
        out: JSON to write; "" takes benchmarks/results/step_<size>_<device>.json.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict = {"size": size, "batch_size": batch_size, "compiled": compiled, "recipes": {}, "headlines": []}
    rows = []
    for name in recipes:
        count = max(2, batch_size // 4) if name.startswith("dino") else batch_size
        measured = compare(name, size, count, rounds, compiled, device)
        result["recipes"][name] = measured
        rows.append({"recipe": name, "batch": count} | measured["row"])
        result["headlines"] += headlines(name, size, measured["row"], device.type)
        result["table"] = rows
        packages = ("torch", "timm", "lightly", "transformers")
        path = save(f"step_{size}_{device.type}", result, packages=packages, out=out)
    print(table(rows), path, sep="\n")


def compare(name: str, size: str, count: int, rounds: int, compiled: bool, device: torch.device) -> dict:
    """One recipe: ours, its peers and the floor."""
    torch.manual_seed(0)
    kind, options = RECIPES[name]
    ours = kind(create_backbone(BACKBONES[size], image_size=224), **options)
    objective = name.split("_")[0]
    sides = {"cxrbase": ours.to(device)} | {
        peer: make(ours, options).to(device) for peer, make in PEERS[objective.split("_")[0]].items()
    }
    small = 8 if objective.startswith("dino") else 0
    views = Views([torch.randn(count, 1, 224, 224, device=device) for _ in range(kind.num_global_views)],
                  [torch.randn(count, 1, 96, 96, device=device) for _ in range(small)])  # fmt: skip
    jobs = {side: one_step(model, views, side == "cxrbase") for side, model in sides.items()}
    flops = {side: counted(job) for side, job in jobs.items()}
    if compiled:
        accelerate(ours, compiled=True)
    clock = time.process_time if device.type == "cpu" else synchronised
    products = gemms(ours.backbone.embed_dim, count, device)
    times = alternate(jobs | products, rounds=rounds, clock=clock, show=lambda line: print(name, line, flush=True))
    rate = max(2 * rows * width * 4 * width * GEMM_REPEATS / seconds
               for (rows, width), job in zip(shapes(ours.backbone.embed_dim, count), products, strict=True)
               for seconds in times[job])  # fmt: skip
    return report({side: times[side] for side in jobs}, flops, rate, device)


def report(times: dict[str, list[float]], flops: dict[str, float], rate: float, device: torch.device) -> dict:
    """Ratios to the peers, to the floor, and to what the maker says of the GPU."""
    compared = summary(times, against="cxrbase")
    fastest = min((side for side in times if side != "cxrbase"), key=lambda side: compared[side]["seconds"]["median"])
    ratio = spread(mine / theirs for mine, theirs in zip(times["cxrbase"], times[fastest], strict=True))
    floor = flops["cxrbase"] / rate
    seconds = compared["cxrbase"]["seconds"]["median"]
    row = {"s a step": seconds, "fastest peer": fastest, "its s": compared[fastest]["seconds"]["median"],
           "ratio": ratio["median"], "low": ratio["low"], "high": ratio["high"], "goal": GOALS[device.type],
           "GFLOP": flops["cxrbase"] / 1e9, "its GFLOP": flops[fastest] / 1e9,
           "floor s": floor, "floor / ours": floor / seconds,
           "ratio by FLOP": flops["cxrbase"] / flops[fastest]}  # fmt: skip
    if peak := peak_of(device):
        row["MFU"] = flops["cxrbase"] / seconds / peak
    return {"sides": compared, "flops": flops, "gemm_gflops": rate / 1e9, "ratio_to_fastest": ratio, "row": row,
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}  # fmt: skip


def headlines(name: str, size: str, row: dict, kind: str) -> list[dict]:
    """What is asked of a recipe: beside its fastest peer, and beside the floor or what the maker says of the GPU."""
    what = f"{name} {size}"
    lines = [headline(f"{what}, time of a step / {row['fastest peer']}'s", row["ratio"], "", low=row["low"],
                      high=row["high"], goal=f"at most {GOALS[kind]:.2f}")]  # fmt: skip
    if kind == "cpu":
        goal = f"at least {FLOOR_GOAL:.2f}"
        lines.append(headline(f"{what}, floor of its products / time of a step", row["floor / ours"], "", goal=goal))
    elif "MFU" in row:
        asked = MFU_GOALS.get((name.split("_")[0], size))
        goal = f"at least {asked:.2f}" if asked else ""
        lines.append(headline(f"{what}, model FLOPs utilisation", row["MFU"], "", goal=goal))
    return lines


def peak_of(device: torch.device) -> float | None:
    """FLOP a second of the GPU by its maker; None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def one_step(model: nn.Module, views: Views, ours: bool) -> Callable[[], Tensor]:
    """Forward, backward, optimiser and teacher of one side."""
    optimizer = (
        torch.optim.AdamW(param_groups(model, weight_decay=0.05), lr=1e-5, fused=True)
        if ours
        else torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        device = views.global_[0].device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(views, 0.5).loss if ours else model(views)
        loss.backward()
        optimizer.step()
        model.after_step(0.5)  # type: ignore[operator]
        return loss.detach()

    return step


def counted(job: Callable[[], object]) -> float:
    """FLOP of the products of one step."""
    with FlopCounterMode(display=False) as counter:
        job()
    return float(counter.get_total_flops())


GEMM_REPEATS = 4


def shapes(width: int, count: int) -> list[tuple[int, int]]:
    """Tokens and width of the largest products of the encoder and of the decoder."""
    return [(count * 197, width), (count * 197, 512), (count * 50, width)]


def gemms(width: int, count: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Products of the shapes of an MLP's first layer."""

    def product(rows: int, columns: int) -> Callable[[], object]:
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        left = torch.randn(rows, columns, device=device, dtype=kind)
        right = torch.randn(columns, 4 * columns, device=device, dtype=kind)

        def job() -> None:
            for _ in range(GEMM_REPEATS):
                left @ right

        return job

    return {f"gemm {rows}x{columns}": product(rows, columns) for rows, columns in shapes(width, count)}


def synchronised() -> float:
    """Time when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    auto_cli(step_time, as_positional=False)
