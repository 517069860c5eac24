"""Spreads weights over devices with torch's `fully_shard`, and gathers them when the whole network is needed."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cxrbase.accelerate import transformer_blocks
from cxrbase.errors import ConfigError


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves each device its part of every parameter, in place; buffers stay whole.

    Blocks are units of their own, so that no more than one and what is outside of blocks is whole at a time.

    Args:
        module: An objective, or anything with transformer blocks in it, the same shapes on all devices.
        mesh: The devices, one dimension.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        # Whatever the processes drew before: parts of different networks would make none.
        _share(tensor.detach(), mesh.device_type)
    for block in transformer_blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def _share(tensor: Tensor, device_type: str) -> None:
    """Gives a tensor the values that it has in the first process, wherever it is.

    Lightning shards before it moves a network to its device, and what joins GPUs takes no tensor of a CPU. Tensors move
    one at a time, because the whole network may be larger than a device.
    """
    device = torch.device(device_type, torch.cuda.current_device()) if device_type == "cuda" else device_type
    moved = tensor.to(device, copy=True)
    torch.distributed.broadcast(moved, 0)
    tensor.copy_(moved)


def is_sharded(module: nn.Module) -> bool:
    """Whether this process holds parts of parameters only."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, the same memory: its part where the tensor is spread, otherwise all."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part.detach()


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """The whole state dict; all processes must ask for it together."""
    state = module.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def refuse_unfit(data_parallel: int, devices: int, *, several_files: bool) -> None:
    """Refuses what a model-parallel strategy offers beyond spreading weights and optimiser over all devices.

    Args:
        data_parallel: Devices that have images of their own.
        devices: All devices.
        several_files: Whether each device would write a file of its own for a checkpoint.

    Raises:
        ConfigError: If it would split the products of matrices, or write several files.
    """
    if data_parallel != devices:
        raise ConfigError(
            f"every device must have images of its own: set --trainer.strategy.data_parallel_size={devices} and "
            "--trainer.strategy.tensor_parallel_size=1"
        )
    if several_files:
        raise ConfigError(
            "a checkpoint is one file, whatever the number of devices: set "
            "--trainer.strategy.save_distributed_checkpoint=false"
        )
