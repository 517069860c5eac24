"""The training stream: its order, ranks, workers, and exact resumption."""

import numpy as np
import pytest
import torch
from PIL import Image

from cxrbase.data.canvas import CanvasStore
from cxrbase.data.dataset import StreamDataset
from cxrbase.data.manifest import Manifest
from cxrbase.data.order import REPEAT, Order, Part, Plan
from cxrbase.data.stream import StreamLoader, StreamSampler
from cxrbase.data.views import CPUCrop
from cxrbase.errors import ConfigError

ROWS = np.arange(3, 103)  # not from 0, so that positions and rows cannot be mistaken for each other


def sampler(*, epoch=0, rows=ROWS, seed=5, **options):
    made = StreamSampler(Order(rows, seed=seed), **{"batch_size": 8, **options})
    made.set_epoch(epoch)
    return made


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    first = list(sampler(epoch=3))
    assert first == list(sampler(epoch=3))
    wandering = sampler()
    for epoch in (7, 1, 3):
        wandering.set_epoch(epoch)
        order = list(wandering)
    assert order == first
    assert list(sampler(epoch=4)) != first
    assert list(sampler(epoch=3, seed=6)) != first
    # Seed and epoch must not be summed: then epoch 4 of seed 5 would be epoch 3 of seed 6.
    assert list(sampler(epoch=4)) != list(sampler(epoch=3, seed=6))


@pytest.mark.parametrize("batch_size", [7, 8, 100])
def test_an_epoch_is_a_permutation_without_the_last_incomplete_batch(batch_size):
    made = sampler(batch_size=batch_size)
    drawn = list(made)
    assert len(drawn) == len(made) == 100 // batch_size * batch_size
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(ROWS.tolist())
    assert drawn == made.source.epoch(0, Plan())[: len(drawn)].tolist()


def test_a_row_that_an_epoch_holds_twice_has_an_id_for_each_time():
    # An epoch of 70 of 100 rows may end one permutation of them and begin the next.
    made = StreamSampler(Order([Part(ROWS, 0.7)], seed=5), batch_size=7)
    made.set_epoch(1)
    drawn = list(made)
    assert len(set(drawn)) == len(drawn) == 70
    assert len({found % REPEAT for found in drawn}) < 70


def test_every_place_is_equally_likely_over_epochs():
    first = [next(iter(sampler(epoch=epoch, rows=np.arange(10)))) for epoch in range(2000)]
    assert np.abs(np.bincount(first, minlength=10) - 200).max() < 60


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batches(world_size):
    expected = np.array(list(sampler(batch_size=8))).reshape(-1, 8)
    ranks = [list(sampler(batch_size=8 // world_size, rank=r, world_size=world_size)) for r in range(world_size)]
    steps = np.array(ranks).reshape(world_size, len(expected), -1)
    for step, batch in enumerate(expected):
        union = steps[:, step].ravel().tolist()
        assert len(union) == len(set(union)) == 8
        assert set(union) == set(batch.tolist())


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_ends_with_a_whole_step_of_accumulated_batches(world_size):
    # 100 images: 12 batches of 8, or 33 of 3; 4 steps of 24 in all cases.
    for batch_size, accumulated in ((24 // world_size, 1), (8 // world_size, 3), (4 // world_size, 6)):
        drawn = []
        for rank in range(world_size):
            made = sampler(batch_size=batch_size, rank=rank, world_size=world_size)
            made.accumulate(accumulated)
            assert len(made) == 96 // world_size
            drawn += list(made)
        assert set(drawn) == set(list(sampler(batch_size=24)))
    made.drop_last = False
    assert len(made) == 100 // world_size


def test_a_stopped_epoch_of_accumulated_batches_still_ends_with_a_whole_step():
    for batches in range(9):  # within a step too, as a checkpoint by the clock may be
        made = sampler(batch_size=10)
        made.accumulate(4)
        whole = list(made)
        made.restore(0, images=10 * batches, batches=batches, plan=Plan())
        assert len(made) == len(whole) == 80
        assert list(made) == whole[10 * batches :]
    made = sampler(batch_size=6)
    made.accumulate(4)
    # Another batch: 8 steps of 8 images are done, of the 36 others 6 x 4 make one more.
    made.restore(0, images=64, batches=8, plan=Plan())
    assert len(list(made)) == 24


def test_only_the_epoch_that_was_begun_with_another_plan_ends_with_it():
    order = Order(ROWS, seed=5, shards=(np.arange(103) // 10).astype(np.int32))
    made = StreamSampler(order, batch_size=8, window=3)
    made.restore(0, images=16, batches=2, plan=Plan(0, 5))
    assert list(made) == order.epoch(0, Plan(0, 5))[16:96].tolist()
    made.set_epoch(1)
    assert list(made) == order.epoch(1, Plan(0, 3))[:96].tolist()


def test_the_size_of_a_batch_is_known_before_it_comes():
    made = sampler(batch_size=8, drop_last=False)
    made.accumulate(3)
    list(made)
    assert [made.size_of(number) for number in (0, 11, 12)] == [8, 8, 4]
    made.restore(0, images=80, batches=10, plan=Plan())
    list(made)
    assert [made.size_of(number) for number in (9, 10, 11, 12)] == [8, 8, 8, 4]


def test_a_split_smaller_than_a_step_is_refused_with_what_would_help():
    made = sampler(batch_size=26, world_size=2)
    with pytest.raises(
        ConfigError, match=r"100 images, fewer than the 104 .* \(26 x 2 devices x 2 accumulated\): lower"
    ):
        made.accumulate(2)


def test_a_split_smaller_than_a_global_batch_is_refused_with_what_would_fit():
    with pytest.raises(ConfigError, match=r"holds 100 images, fewer than one global batch of 104.* at most 25"):
        sampler(batch_size=26, world_size=4)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_split_smaller_than_the_devices_is_refused_with_what_would_fit(drop_last):
    with pytest.raises(ConfigError, match=r"3 images, fewer than the 4 devices: set trainer\.devices to at most 3"):
        sampler(rows=ROWS[:3], batch_size=8, world_size=4, drop_last=drop_last)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    for number in range(50):
        Image.fromarray(np.full((20 + number % 3, 24), 4 * number, np.uint8)).save(folder / f"{number:02}.png")
    return CanvasStore.open(Manifest.from_folder(folder), size=24, cache_dir=folder / ".canvas")


def loader(store, *, num_workers=0, crop=None, seed=5, count=50):
    return StreamLoader(
        StreamDataset(store, seed=seed, crop=crop),
        batch_size=8,
        sampler=sampler(rows=store.rows[:count], seed=seed),
        num_workers=num_workers,
        drop_last=True,
        persistent_workers=num_workers > 0,
    )


def test_a_batch_holds_canvases_sizes_and_rows(store):
    images, sizes, rows = next(iter(loader(store)))
    assert images.shape == (8, 1, 24, 24)
    assert images.dtype == torch.uint8
    for image, size, row in zip(images, sizes, rows, strict=True):
        assert size.tolist() == [20 + int(row) % 3, 24]
        assert (image[0, : size[0]] == 4 * row).all()
        assert (image[0, size[0] :] == 0).all()


@pytest.mark.parametrize(("num_workers", "decode_threads"), [(0, 0), (2, 0), (0, 2)])
@pytest.mark.parametrize("crop", [None, CPUCrop(16, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))])
def test_a_batch_written_in_its_place_is_its_images_one_by_one(store, num_workers, decode_threads, crop):
    stream = loader(store, num_workers=num_workers, crop=crop)
    stream.decode_threads = decode_threads
    for images, sizes, rows in stream:
        singly = [stream.dataset[row] for row in rows.tolist()]
        assert images.equal(torch.stack([image for image, _, _ in singly]))
        assert sizes.equal(torch.stack([size for _, size, _ in singly]))
        assert images.is_shared() == bool(num_workers)


def standing(**position):
    return {"epoch": 1, "plan": [0, 0], "seed": 5, "n": 50, "quarantine": {"rows": [], "reasons": []}, **position}


def collect(stream, epochs, *, stop=None):
    """Pixels and rows of each batch; `stop` ends the last epoch after so many batches."""
    batches = []
    for epoch in epochs:
        stream.sampler.set_epoch(epoch)
        for number, (images, _, rows) in enumerate(stream, 1):
            batches.append((rows.tolist(), images))
            if epoch == epochs[-1] and number == stop:
                break
    return batches


def same(batches, others):
    assert [rows for rows, _ in batches] == [rows for rows, _ in others]
    for (_, images), (_, expected) in zip(batches, others, strict=True):
        torch.testing.assert_close(images, expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stopped_stream_goes_on_exactly_where_it_stood(store, num_workers):
    crop = CPUCrop(16, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
    whole = collect(loader(store, crop=crop), [0, 1, 2])
    assert len(whole) == 18
    stopped = loader(store, num_workers=num_workers, crop=crop)
    same(collect(stopped, [0, 1], stop=2), whole[:8])
    state = stopped.state_dict()
    # Workers have read ahead by now; only what was handed out may count.
    nobody = {"rows": [], "reasons": []}
    assert state == {"epoch": 1, "images": 16, "batches": 2, "plan": [0, 0], "seed": 5, "n": 50, "quarantine": nobody}
    resumed = loader(store, num_workers=num_workers, crop=crop)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    same(collect(resumed, [1, 2]), whole[8:])


def test_a_resumed_epoch_has_its_full_length_but_only_the_rest_of_its_images(store):
    resumed = loader(store)
    resumed.load_state_dict(standing(images=32, batches=4))
    assert len(resumed) == 6
    assert len(list(resumed)) == 2
    assert resumed.state_dict()["images"] == 48
    assert len(list(resumed)) == 6


def test_a_position_is_the_same_for_another_number_of_ranks(store):
    state = standing(images=16, batches=2)
    drawn = []
    for rank in range(2):
        ranked = StreamLoader(
            StreamDataset(store), batch_size=4, sampler=sampler(batch_size=4, rank=rank, world_size=2, rows=store.rows)
        )
        ranked.load_state_dict(state)
        drawn.append([row for _, _, rows in ranked for row in rows.tolist()])
        assert ranked.state_dict()["images"] == 48
    alone = loader(store)
    alone.load_state_dict(state)
    assert sorted(drawn[0] + drawn[1]) == sorted(row for _, _, rows in alone for row in rows.tolist())


def global_batches(store, position, *, world, num_workers, stop=None):
    """Rows of each global batch from a position on, with a crop of each, and the position of every rank at the end."""
    crop = CPUCrop(16, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
    batches, positions = {}, []
    for rank in range(world):
        share = sampler(batch_size=8 // world, rank=rank, world_size=world, rows=store.rows)
        ranked = StreamLoader(
            StreamDataset(store, seed=5, crop=crop), batch_size=8 // world, sampler=share, num_workers=num_workers
        )
        if position is not None:
            ranked.load_state_dict(position)
        for number, (images, _, rows) in enumerate(ranked):
            seen = batches.setdefault(number, {})
            assert not seen.keys() & set(rows.tolist())
            seen |= {row: image.numpy().tobytes() for row, image in zip(rows.tolist(), images, strict=True)}
            if number + 1 == stop:
                break
        positions.append(ranked.state_dict())
        del ranked
    assert all(there == positions[0] for there in positions)
    return list(batches.values()), positions[0]


@pytest.mark.parametrize("after", [[(1, 0)], [(4, 1)], [(4, 1), (1, 2), (8, 0)]], ids=["1x0", "4x1", "several stops"])
def test_two_ranks_of_two_workers_go_on_as_any_others(store, after):
    whole, _ = global_batches(store, None, world=1, num_workers=0)
    assert len(whole) == 6
    seen, position = global_batches(store, None, world=2, num_workers=2, stop=2)
    for world, workers in after:
        stop = None if (world, workers) == after[-1] else 1
        more, position = global_batches(store, position, world=world, num_workers=workers, stop=stop)
        seen += more
    assert seen == whole
    assert position["images"] == 48


def test_a_position_of_another_run_is_refused(store):
    state = loader(store).state_dict()
    with pytest.raises(ConfigError, match="seed_everything was 5 in the checkpoint and is 6 now"):
        loader(store, seed=6).load_state_dict(state)
    with pytest.raises(ConfigError, match="number of training images was 50 in the checkpoint and is 40 now"):
        loader(store, count=40).load_state_dict(state)


def test_the_cpu_crop_depends_on_its_key_alone():
    image = np.random.default_rng(0).integers(0, 255, (60, 50)).astype(np.uint8)
    crop = CPUCrop(32, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
    first = crop(image, (0, 1, 2)).copy()
    assert first.shape == (32, 32)
    crop(image, (9, 9, 9))
    np.testing.assert_array_equal(crop(image, (0, 1, 2)), first)
    np.testing.assert_array_equal(CPUCrop(32, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))(image, (0, 1, 2)), first)
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert (crop(image, key) != first).any()
