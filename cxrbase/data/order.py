"""The order of an epoch, computed from (seed, epoch) alone: the same for any workers, ranks and restarts."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxrbase.errors import ConfigError

Rows = NDArray[np.int64]
REPEAT = 1 << 40  # far more than a manifest has rows
_SWEEPS = 60  # of swaps; a million rows and batches of 4,096 need about five
# With windows of 20 batches, 20 sweeps leave 2 % of the rows of a million outside of their own, and 60 hardly fewer.
_NEAR_SWEEPS = 20


class Plan(NamedTuple):
    """What an order depends on besides (seed, epoch); kept with a position, so that the position stays true.

    Attributes:
        group: Images of a global batch in which no two may be of one patient; 0 where they may.
        window: Shards that are mixed with each other; 0 mixes all.
    """

    group: int = 0
    window: int = 0


@dataclass(frozen=True)
class Part:
    """Rows that are drawn at a rate of their own.

    Attributes:
        rows: Rows, (N,) int64.
        weight: How often each is drawn per epoch: 2 is twice, 0.25 is a fresh quarter of the rows in each epoch.
    """

    rows: Rows
    weight: float = 1.0

    def __len__(self) -> int:
        """Images that an epoch takes."""
        return round(self.weight * len(self.rows))  # 0.29 x 100 is below 29 by a rounding error

    def draw(self, seed: int, number: int, epoch: int) -> Rows:
        """Rows of an epoch: a piece of an endless chain of permutations, so that none is left behind."""
        count, size = len(self), len(self.rows)
        first, last = epoch * count, (epoch + 1) * count
        if self.weight == 1:
            return self.rows
        rounds = range(first // size, -(-last // size))
        chain = np.concatenate([_generator(seed, number, turn, 1).permutation(self.rows) for turn in rounds])
        return np.asarray(chain[first - rounds[0] * size :][:count])


class Order:
    """Shuffles the rows of a training set anew for every epoch.

    Args:
        parts: What is drawn from; or the rows alone.
        seed: Seed of the run.
        patients: Patient of every row of the manifest as a number, where batches must not hold one twice.
        shards: Shard of every row as a number, where only some shards are at hand at a time.
    """

    def __init__(
        self,
        parts: list[Part] | Rows,
        *,
        seed: int,
        patients: NDArray[np.int32] | None = None,
        shards: NDArray[np.int32] | None = None,
    ) -> None:
        self.parts = parts if isinstance(parts, list) else [Part(parts)]
        self.seed, self.patients, self.shards = seed, patients, shards

    def __len__(self) -> int:
        """Images of an epoch."""
        return sum(len(part) for part in self.parts)

    @property
    def repeats(self) -> bool:
        """Whether an epoch may hold a row more than once."""
        return any(part.weight != 1 for part in self.parts)

    @property
    def rows(self) -> Rows:
        """All rows that are drawn from, sorted."""
        return np.sort(np.concatenate([part.rows for part in self.parts]))

    def epoch(self, epoch: int, plan: Plan) -> Rows:
        """Rows in the order of an epoch, a pure function of the arguments and of what the order was made with.

        Raises:
            ConfigError: A patient has more images than there are batches.
        """
        drawn = np.concatenate([part.draw(self.seed, number, epoch) for number, part in enumerate(self.parts)])
        generator = _generator(self.seed, epoch)
        order, window = generator.permutation(drawn), None
        if plan.window:
            order, window = self._windowed(order, plan.window, generator)
        if plan.group and self.patients is not None:
            order = _apart(order, self.patients[order], plan.group, generator, window)
        return order

    def windows(self, epoch: int, plan: Plan) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
        """Shards of each window in the order in which an epoch needs them, and where in the epoch each window ends.

        Without windows there is one that holds all shards.
        """
        assert self.shards is not None
        needed = self.shards[self.epoch(epoch, Plan(0, plan.window))]
        names, first, count = np.unique(needed, return_index=True, return_counts=True)
        sorting = np.argsort(first)
        step = plan.window or len(names)
        starts = range(0, len(names), step)
        windows = [names[sorting][start : start + step] for start in starts]
        return windows, np.cumsum([count[sorting][start : start + step].sum() for start in starts])

    def _windowed(self, order: Rows, window: int, generator: np.random.Generator) -> tuple[Rows, Rows]:
        """Groups a shuffled order by runs of `window` shards in random succession; within a run it stays shuffled.

        Returns:
            The order, and the number of the run at each place of it.
        """
        assert self.shards is not None
        shard = self.shards[order]
        rank = generator.permutation(int(self.shards.max()) + 1)
        # Only shards that are drawn from count, so that every window is full.
        used = np.unique(rank[shard])
        place = np.searchsorted(used, rank[shard]) // window
        sorting = np.argsort(place, kind="stable")
        return order[sorting], place[sorting]


def told_apart(order: Rows) -> Rows:
    """Ids of the rows of an epoch: the row itself, and for each further time that it is drawn `REPEAT` more.

    What is drawn at random for an image is keyed by its id, so that a row gets another view each time.
    """
    sorting = np.argsort(order, kind="stable")
    _, times = np.unique(order, return_counts=True)
    repeat = np.empty(len(order), np.int64)
    repeat[sorting] = np.arange(len(order)) - np.repeat(np.cumsum(times) - times, times)
    return np.asarray(order + repeat * REPEAT)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(key)))


def _apart(
    order: Rows, patients: NDArray[np.int32], group: int, generator: np.random.Generator, window: Rows | None
) -> Rows:
    """Swaps rows until no run of `group` holds a patient twice; within their windows as far as that is possible."""
    most, batches = int(np.bincount(patients).max()), -(-len(order) // group)
    if most > batches:
        raise _too_tight(most, len(order) // most)
    batch = np.arange(len(order)) // group
    order, patients = order.copy(), patients.copy()
    if window is not None:
        # Shards of the next window are at hand too; for a row from farther away, a whole shard is fetched once more.
        for reach in (0, 1):
            spans = np.searchsorted(window, window - reach), np.searchsorted(window, window + reach, side="right")
            if _swapped(order, patients, batch, generator, spans, sweeps=_NEAR_SWEEPS):
                return order
    if _swapped(order, patients, batch, generator):
        return order
    return order[_dealt(patients, group, generator)]


def _swapped(
    order: Rows,
    patients: NDArray[np.int32],
    batch: Rows,
    generator: np.random.Generator,
    spans: tuple[Rows, Rows] | None = None,
    *,
    sweeps: int = _SWEEPS,
) -> bool:
    """Swaps rows in their place; whether no batch holds a patient twice any more.

    Args:
        order: Rows.
        patients: Their patients.
        batch: Their batches.
        generator: Draws the places to swap with.
        spans: First of these for each place, and the one after the last; None draws from all.
        sweeps: Tries.
    """
    for _ in range(sweeps):
        twice = _second(batch, patients)
        if not len(twice):
            return True
        # A place may take part in one swap of a sweep only.
        drawn = generator.integers(0, len(order), len(twice)) if spans is None else _within(spans, twice, generator)
        other, kept = np.unique(drawn, return_index=True)
        free = ~np.isin(other, twice)
        here, there = twice[kept][free], other[free]
        for values in (order, patients):
            values[here], values[there] = values[there], values[here]
    return False


def _within(spans: tuple[Rows, Rows], places: Rows, generator: np.random.Generator) -> Rows:
    return np.asarray(generator.integers(spans[0][places], spans[1][places]), np.int64)


def _too_tight(most: int, fits: int) -> ConfigError:
    return ConfigError(
        f"one_per_patient cannot hold: a patient has {most} images and an epoch has too few batches for them; "
        f"lower data.batch_size, to a global batch of about {max(fits, 1)} images"
    )


def _second(batch: Rows, patients: NDArray[np.int32]) -> Rows:
    """Places whose patient came earlier in the same batch."""
    key = batch * (int(patients.max()) + 1) + patients
    sorting = np.argsort(key, kind="stable")
    return np.asarray(sorting[1:][np.diff(key[sorting]) == 0])


def _dealt(patients: NDArray[np.int32], group: int, generator: np.random.Generator) -> Rows:
    """Deals the largest patients first, each to the batches with most room, which finds a way wherever there is one."""
    batches = -(-len(patients) // group)
    room = np.full(batches, group)
    room[-1] = len(patients) - group * (batches - 1)
    chosen: list[list[int]] = [[] for _ in range(batches)]
    names, count = np.unique(patients, return_counts=True)
    for index in np.lexsort((generator.random(len(names)), -count)):
        places = np.flatnonzero(patients == names[index])
        emptiest = np.lexsort((generator.random(batches), -room))[: len(places)]
        if not room[emptiest].all():
            raise _too_tight(len(places), group // 2)
        room[emptiest] -= 1
        for batch, place in zip(emptiest, places, strict=True):
            chosen[batch].append(int(place))
    return np.concatenate([generator.permutation(np.array(batch, np.int64)) for batch in chosen])
