"""The cost of a training step (counted FLOPs, measured seconds), and the number of steps for a budget."""

import contextlib
import time
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cxrbase.answers import TrainingParser, refuse_no_objective
from cxrbase.compare.plan import BudgetKind
from cxrbase.data.datamodule import CXRDataModule
from cxrbase.errors import ConfigError
from cxrbase.optim import param_groups
from cxrbase.pretraining import Pretraining
from cxrbase.sizes import longest
from cxrbase.views import Views

_COUNTED = 8  # images of the counted batch; FLOPs are proportional to it
_MEASURED_S = 5.0
T = TypeVar("T", Pretraining, CXRDataModule)


def build(settings: dict[str, Any]) -> tuple[Pretraining, CXRDataModule]:
    """The module and the data module that `cxrbase fit` makes of these settings; ConfigError where it makes none."""
    seed = _seed(settings)
    image_size = settings.get("data", {}).get("image_size", 224)
    given = dict(settings.get("model", {})) | {"image_size": image_size, "seed": seed}
    torch.manual_seed(seed)
    return _made(Pretraining, "model", given), build_data(settings)


def build_data(settings: dict[str, Any]) -> CXRDataModule:
    """The data module alone."""
    return _made(CXRDataModule, "data", dict(settings.get("data", {})) | {"seed": _seed(settings)})


def _made(kind: type[T], section: str, given: dict[str, Any]) -> T:
    parser = TrainingParser(exit_on_error=False)
    parser.add_class_arguments(kind, section)
    try:
        config = parser.parse_object({section: given})
        if section == "model":
            refuse_no_objective(config.model.objective)
        made = parser.instantiate(config)[section]
    except (ArgumentError, TypeError) as error:
        answer = parser.answer(str(error))
        raise ConfigError(f"correct words or axes, which cxrbase fit would not take either: {answer}") from error
    assert isinstance(made, kind)
    return made


def _seed(settings: dict[str, Any]) -> int:
    return int(settings.get("seed_everything", 0))


def random_views(data: CXRDataModule, count: int, device: torch.device) -> Views:
    """Views of noise, of the sizes of a real batch."""
    side = data.canvas_size or 2 * longest(data.image_size)
    images = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, device=device)
    sizes = torch.full((count, 2), side, device=device)
    ids = torch.arange(count, device=device)
    return data.views(images, sizes, ids, out=data.image_size, mean=data.mean, std=data.std, seed=0, epoch=0)


def flops_per_image(module: Pretraining, data: CXRDataModule) -> float:
    """FLOPs of forward and backward pass per image, a multiplication and an addition being two."""
    objective = module.objective.train()
    views = random_views(data, _COUNTED, torch.device("cpu"))
    # The counter knows the products of plain attention, not those of every fused kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        objective(views, 0.0).loss.backward()
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops() / _COUNTED)


def seconds_per_image(module: Pretraining, data: CXRDataModule, *, precision: str, device: torch.device) -> float:
    """Device seconds of a training step per image, views and optimiser included, the median of several steps."""
    objective = module.objective.to(device).train()
    optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.0), lr=0.0)
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 4 or time.perf_counter() - began < _MEASURED_S:
        start = time.perf_counter()
        views = random_views(data, data.batch_size, device)
        with torch.autocast(device.type, kind) if kind else contextlib.nullcontext():
            loss = objective(views, 0.0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append((time.perf_counter() - start) / data.batch_size)
    return float(torch.tensor(taken[1:]).median())


def steps_for(
    budget: BudgetKind, amount: float, *, global_batch: int, flops: float, seconds: float | None = None
) -> int:
    """Optimizer steps that use up a budget.

    Args:
        budget: Kind of the budget.
        amount: How much of it.
        global_batch: Images of a step.
        flops: FLOPs per image.
        seconds: Seconds per image, needed for a budget of seconds.

    Raises:
        ConfigError: The budget is not enough for one step.
    """
    price = {"images": 1.0, "flops": flops, "seconds": seconds or 0.0}[budget] * global_batch
    steps = round(amount / price) if price else 0
    if steps < 1:
        raise ConfigError(f"a budget of {amount:g} {budget} is not enough for one step, which takes {price:g}")
    return steps
