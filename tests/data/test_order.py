"""The order of an epoch: how well it shuffles, what it draws, and who may meet whom in a batch."""

import collections
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cxrbase.data.order import REPEAT, Order, Part, Plan, told_apart
from cxrbase.errors import ConfigError

ROWS = np.arange(20_000)


def test_neighbours_of_the_manifest_are_strangers_in_an_epoch():
    order = Order(ROWS, seed=0)
    epochs = [order.epoch(epoch, Plan()) for epoch in range(6)]
    # A random order's correlation has standard deviation 1 / sqrt(n); five of them is one in a million.
    for drawn in epochs:
        assert abs(spearmanr(drawn, ROWS)[0]) < 5 / np.sqrt(len(ROWS))
    for first, second in pairwise(epochs):
        assert abs(spearmanr(np.argsort(first), np.argsort(second))[0]) < 5 / np.sqrt(len(ROWS))


def test_images_of_a_patient_follow_each_other_no_more_often_than_by_chance():
    patient = ROWS // 5
    for window in (0, 8):
        order = Order(ROWS, seed=1, shards=(ROWS // 500).astype(np.int32))
        pairs = np.mean([(np.diff(patient[order.epoch(e, Plan(0, window))]) == 0).mean() for e in range(10)])
        # Within a window of 4,000 images a neighbour is one of four others of the patient, unless split over shards.
        chance = 4 / (len(ROWS) if window == 0 else 4000)
        assert pairs < 1.3 * chance


def test_windows_draw_whole_runs_of_shards_and_every_image_once():
    shards = (ROWS % 37).astype(np.int32)
    order = Order(ROWS[5:9000], seed=3, shards=shards)
    drawn, plan = order.epoch(2, Plan(0, 5)), Plan(0, 5)
    assert sorted(drawn) == ROWS[5:9000].tolist()
    windows, ends = order.windows(2, plan)
    assert [len(window) for window in windows] == [5] * 7 + [2]
    assert ends[-1] == len(drawn)
    for window, start, end in zip(windows, [0, *ends], ends, strict=False):
        assert set(shards[drawn[start:end]]) == set(window)
        first = [int(np.flatnonzero(shards[drawn[start:end]] == shard)[0]) for shard in window]
        assert first == sorted(first)


def test_shards_that_nothing_is_drawn_from_leave_no_gap_in_a_window():
    shards = (ROWS % 40).astype(np.int32)
    order, plan = Order(ROWS[shards % 3 == 0], seed=3, shards=shards), Plan(0, 5)
    drawn, (windows, ends) = order.epoch(0, plan), order.windows(0, plan)
    assert [len(window) for window in windows] == [5, 5, 4]
    for window, start, end in zip(windows, [0, *ends], ends, strict=False):
        assert set(shards[drawn[start:end]]) == set(window)


@pytest.mark.parametrize("weight", [0.25, 0.3, 1.0, 1.7, 3.0])
def test_a_weight_is_how_often_each_row_is_drawn(weight):
    part = Part(np.arange(7, 47), weight)
    epochs = [part.draw(0, 0, epoch) for epoch in range(20)]
    assert {len(drawn) for drawn in epochs} == {int(weight * 40)}
    for last in range(1, 21):
        count = np.bincount(np.concatenate(epochs[:last]), minlength=47)[7:]
        # Nobody is drawn again before everybody was.
        assert count.max() - count.min() <= 1
    if weight < 1:
        assert set(epochs[0]) != set(epochs[1])


def test_a_share_of_the_rows_is_put_together_anew_once_all_were_drawn():
    part = Part(np.arange(40), 0.25)
    first, second = ([set(part.draw(0, 0, 4 * turn + place).tolist()) for place in range(4)] for turn in range(2))
    assert not [quarter for quarter in second if quarter in first]


def test_parts_are_mixed_in_their_shares():
    order = Order([Part(np.arange(3000), 0.5), Part(np.arange(3000, 4000), 3)], seed=0)
    drawn = order.epoch(0, Plan())
    assert len(order) == len(drawn) == 4500
    shares = [(drawn[start : start + 500] >= 3000).mean() for start in range(0, 4500, 500)]
    assert np.abs(np.array(shares) - 3000 / 4500).max() < 0.1
    assert order.rows.tolist() == list(range(4000))


def twice(order, patients, group):
    runs = [patients[order[start : start + group]] for start in range(0, len(order), group)]
    return sum(len(run) - len(set(run.tolist())) for run in runs)


def test_no_patient_is_twice_in_a_batch_and_the_order_stays_shuffled():
    rng = np.random.default_rng(0)
    patients = rng.geometric(0.002, 20_000).astype(np.int32)
    order = Order(ROWS, seed=4, patients=patients)
    free, apart = order.epoch(1, Plan()), order.epoch(1, Plan(256))
    assert twice(free, patients, 256) > 100
    assert twice(apart, patients, 256) == 0
    assert sorted(apart) == ROWS.tolist()
    assert abs(spearmanr(apart, ROWS)[0]) < 5 / np.sqrt(len(ROWS))
    assert (apart == order.epoch(1, Plan(256))).all()


@pytest.mark.parametrize("group", [64, 256])
def test_patients_are_kept_apart_within_the_shards_at_hand(group):
    patients, shards = (ROWS // 5).astype(np.int32), (ROWS // 500).astype(np.int32)  # as they lie in a pack
    order = Order(ROWS, seed=4, patients=patients, shards=shards)
    for epoch in range(3):
        assert twice(order.epoch(epoch, Plan(0, 8)), patients, group) > 10
        drawn = order.epoch(epoch, Plan(group, 8))
        assert twice(drawn, patients, group) == 0
        assert sorted(drawn) == ROWS.tolist()
        windows, ends = order.windows(epoch, Plan(group, 8))
        for window, start, end in zip(windows, [0, *ends], ends, strict=False):
            assert set(shards[drawn[start:end]]) == set(window)


def test_patients_whom_a_window_cannot_keep_apart_are_and_few_rows_leave_it():
    patients, shards = (ROWS // 5).astype(np.int32), (ROWS // 500).astype(np.int32)
    patients[ROWS % 1000 < 20] = 4001 + ROWS[ROWS % 1000 < 20] // 1000  # more images than a window has batches
    order = Order(ROWS, seed=4, patients=patients, shards=shards)
    drawn = order.epoch(0, Plan(256, 8))
    assert twice(drawn, patients, 256) == 0
    assert sorted(drawn) == ROWS.tolist()
    windows, ends = order.windows(0, Plan(256, 8))
    home = {shard: number for number, window in enumerate(windows) for shard in window.tolist()}
    away = np.abs([home[shard] for shard in shards[drawn].tolist()] - np.searchsorted(ends, ROWS, side="right"))
    assert 0.9 < (away == 0).mean() < 1
    # The shards of the next window are at hand too.
    assert (away > 1).mean() < 0.002


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 3))
def test_tight_sets_are_kept_apart_or_refused(counts, group, epoch):
    patients = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    order = Order(np.arange(len(patients)), seed=0, patients=patients)
    batches = -(-len(patients) // group)
    try:
        drawn = order.epoch(epoch, Plan(group))
    except ConfigError as error:
        # Only the last, smaller batch can make it impossible where nobody has more images than there are batches.
        assert max(counts) > batches or len(patients) % group
        assert "lower data.batch_size" in str(error)  # noqa: PT017
        return
    assert sorted(drawn) == list(range(len(patients)))
    assert twice(drawn, patients, group) == 0


def test_a_set_that_only_dealing_can_solve_is_solved():
    patients = np.repeat(np.arange(8), 40).astype(np.int32)
    drawn = Order(np.arange(320), seed=0, patients=patients).epoch(0, Plan(8))
    assert twice(drawn, patients, 8) == 0
    with pytest.raises(ConfigError, match="a patient has 40 images"):
        Order(np.arange(320), seed=0, patients=patients).epoch(0, Plan(16))


def test_ids_are_rows_that_count_how_often_they_were_drawn():
    order = Order([Part(np.arange(300), 2.5), Part(np.arange(300, 400), 0.7)], seed=3).epoch(1, Plan())
    times = collections.Counter()
    for found, row in zip(told_apart(order).tolist(), order.tolist(), strict=True):
        assert divmod(found, REPEAT) == (times[row], row)
        times[row] += 1
    assert max(times.values()) == 3
