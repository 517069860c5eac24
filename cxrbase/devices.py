"""The device that `--device` names."""

from typing import TYPE_CHECKING

from cxrbase.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEVICE_HELP = "auto (a GPU if there is one), cpu, cuda or cuda:1"


def device_of(name: str | None = None) -> "torch.device":
    """The device of a name such as cpu, cuda or cuda:1; `auto` and None take a GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch  # here, because the help of a command does not need it

    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # `meta` and the like take tensors and hold no values.
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--device must be auto, cpu or a device that is there, got {name!r}: {why}") from error
    return torch.device(str(name))
