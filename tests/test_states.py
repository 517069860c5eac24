"""Weights on disk can be read by everybody, and their checksum depends on what they are and not on where they are."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from cxrbase.states import state_hash, write_state


def test_any_layout_is_written_whole_for_all_to_read(tmp_path):
    state = {"turned": torch.arange(6.0).reshape(2, 3).T, "number": torch.tensor(3, requires_grad=False),
             "learnt": torch.ones(2, requires_grad=True)}  # fmt: skip
    path = tmp_path / "a.safetensors"
    write_state(path, state)
    again = load_file(path)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert path.stat().st_mode & 0o444 == 0o444
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "state",
    [
        {"b": torch.arange(4, dtype=torch.float32).reshape(2, 2), "a": torch.tensor([True])},
        {"count": torch.tensor(7), "half": torch.tensor(0.5, dtype=torch.bfloat16)},
    ],
    ids=["tensors", "single numbers"],
)
def test_the_checksum_is_that_of_names_shapes_types_and_bytes(state):
    def known(head):
        digest = hashlib.sha256(head)
        for name in sorted(state):
            value = state[name]
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(bytes(value.flatten().view(torch.uint8).tolist()))
        return digest.hexdigest()

    assert state_hash(state) == known(b"")
    assert state_hash(state, head=b"card") == known(b"card")
    assert state_hash(dict(reversed(state.items()))) == known(b"")


def test_another_name_shape_type_or_value_is_another_checksum():
    kinds = [{"a": torch.zeros(4)}, {"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.ones(4)},
             {"a": torch.zeros(4, dtype=torch.int32)}]  # fmt: skip
    assert len({state_hash(kind) for kind in kinds}) == len(kinds)
