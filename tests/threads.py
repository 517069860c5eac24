"""One thread for small problems: where cores are shared, threads that wait for each other take most of the time."""

import torch
from threadpoolctl import threadpool_limits


def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)
