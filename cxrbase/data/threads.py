"""Loads batches with threads that decode straight into them, as an alternative to worker processes."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from cxrbase.data.dataset import Batch, StreamDataset

_AHEAD = 2  # batches under way; more only cost memory
_RUN = 4  # images of a task: fewer switches between threads, and still an even load


def threaded_batches(
    dataset: StreamDataset, batches: Iterable[list[int]], *, threads: int, pin: bool
) -> Iterator[Batch]:
    """Yields the batches of some rows in their order, decoding the next ones meanwhile.

    Decoding, reading and copying release the interpreter lock, and nothing is pickled or sent between processes.

    Args:
        dataset: Where the images come from.
        batches: Rows of each batch.
        threads: Threads that decode.
        pin: Use page-locked memory, which PyTorch keeps and gives out again once the device has copied from it.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    under_way: deque[tuple[Batch, list[Future[None]]]] = deque()

    def hand_out() -> Batch:
        batch, tasks = under_way.popleft()
        for task in tasks:
            task.result()
        return batch

    try:
        for rows in batches:
            under_way.append(_begin(pool, dataset, rows, pin))
            if len(under_way) > _AHEAD:
                yield hand_out()
        while under_way:
            yield hand_out()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(
    pool: ThreadPoolExecutor, dataset: StreamDataset, rows: list[int], pin: bool
) -> tuple[Batch, list[Future[None]]]:
    batch = dataset.empty(len(rows), pin=pin)
    runs = [range(start, min(start + _RUN, len(rows))) for start in range(0, len(rows), _RUN)]
    return batch, [pool.submit(dataset.fill_slots, batch, rows, slots) for slots in runs]
