"""A training step asks the device nothing: no value is read by the host and no shape depends on data."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxrbase.optim import param_groups
from cxrbase.views import RandomViews

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "_unique2", "unique_dim", "equal"}


class Asked(AssertionError):
    """The host would have waited for the device."""


class AskNothing(TorchDispatchMode):
    """Fails on operations whose result, or whose size, the host must know before it can go on."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        if name in ASKING or any(i is not None and i.dtype == torch.bool for i in indices):
            raise Asked(f"{func} in the step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MAE", {}),
        ("MAE", {"decoder": "cross"}),
        ("DINO", {}),
        ("DINO", {"centring": "sinkhorn", "batch_norm": True}),
        ("SimCLR", {}),
    ],
)
def test_no_step_reads_a_value_or_a_shape_from_the_device(build, make_views, name, options):
    objective = build(name, **options)
    views = make_views(objective)
    optimizer = torch.optim.AdamW(param_groups(objective, weight_decay=0.05), lr=1e-3, fused=True)
    with AskNothing():
        objective(views, 0.5).loss.backward()
        optimizer.step()
        objective.after_step(0.5)


def test_no_view_reads_a_value_from_the_device():
    make = RandomViews(num_global=2, num_local=2, jitter=0.8, blur=0.5)
    images, ids = torch.zeros(4, 1, 48, 48, dtype=torch.uint8), torch.arange(4)
    with AskNothing():
        views = make(images, torch.full((4, 2), 48), ids, out=32, mean=0.5, std=0.25, seed=0, epoch=0)
    assert [len(views.global_), len(views.local)] == [2, 2]


@pytest.mark.parametrize(
    "ask",
    [lambda x: x[0].item(), lambda x: x[x > 0], lambda x: bool(x[0] > 0), lambda x: x.nonzero(), lambda x: x.unique()],
)
def test_such_a_question_would_be_seen(ask):
    with AskNothing(), pytest.raises(Asked):
        ask(torch.zeros(3))
