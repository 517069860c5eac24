"""The device that `--device` names."""

import torch

from cxrbase.errors import ConfigError


def device_of(name: str | None = None) -> torch.device:
    """The device of a name such as cpu, cuda or cuda:1; `auto` and None take a GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # `meta` and the like take tensors and hold no values.
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--device must be auto, cpu or a device that is there, got {name!r}: {why}") from error
    return torch.device(str(name))
