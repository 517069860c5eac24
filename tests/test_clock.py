"""The clock gives each phase its own time, and a run shows all of them."""

import time
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrbase.callbacks.step_times import PHASES, StepTimes
from cxrbase.callbacks.throughput import Throughput
from cxrbase.clock import StepClock


@pytest.fixture
def now(monkeypatch):
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


def test_each_phase_gets_the_time_since_the_mark_before(now):
    clock = StepClock()
    clock.start(torch.device("cpu"))
    for phase, seconds in [("between", 9.0), ("forward", 1.0), ("backward", 2.0), ("between", 5.0), ("forward", 3.0)]:
        now[0] += seconds
        clock.mark(phase)
    # What came before the first mark began nowhere.
    assert clock.spent() == {"forward": 4.0, "backward": 2.0, "between": 5.0}
    assert clock.spent() == {}
    now[0] += 7.0
    clock.mark("backward")
    assert clock.spent() == {"backward": 7.0}


def test_a_clock_that_was_not_started_keeps_nothing():
    clock = StepClock()
    clock.mark("forward")
    clock.mark("backward")
    assert clock.spent() == {}


class Event:
    """Stands for a CUDA event: recorded now, reached by the device later."""

    reached, count = 0, 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.count += 1
        self.number = Event.count

    def query(self):
        return self.number <= Event.reached

    def elapsed_time(self, other):
        assert other.query()
        return 10.0 * (other.number - self.number)


def test_events_that_the_device_has_not_reached_are_left_for_later(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StepClock()
    clock.start(torch.device("cuda"))
    for phase in ("between", "forward", "backward"):
        clock.mark(phase)
    Event.reached = 2
    assert clock.spent() == {"forward": 0.01}
    Event.reached = 3
    assert clock.spent() == {"backward": 0.01}


def test_a_run_logs_every_phase_and_they_fit_into_its_time(fit):
    summary = fit("dino", "--step_times.every_n_steps=2", "--trainer.log_every_n_steps=1", "--trainer.max_steps=4")
    events = EventAccumulator(str(fit.run_dir), size_guidance={"scalars": 0}).Reload()
    means = {phase: [point.value for point in events.Scalars(f"time/{phase}_ms")] for phase in PHASES}
    assert min(len(values) for values in means.values()) >= 2
    for phase in ("views", "forward", "backward", "optimiser", "teacher"):
        assert min(means[phase]) > 0
    assert sum(values[-1] for values in means.values()) * 2 / 1000 < summary["wall_s"]


def test_it_can_be_switched_off(fit):
    fit("mae", "--step_times.enabled=false", "--trainer.max_steps=2")
    events = EventAccumulator(str(fit.run_dir), size_guidance={"scalars": 0}).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("time/")]


def test_a_nonsense_interval_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StepTimes(every_n_steps=0)


class Logged:
    """A module that notes at which batch something is logged."""

    def __init__(self):
        self.batch, self.at = 0, []

    def log(self, *args, **options):
        self.at.append(self.batch)

    def log_dict(self, *args, **options):
        self.at.append(self.batch)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("callback", [Throughput, StepTimes])
def test_points_of_the_curves_are_optimizer_steps_apart_however_many_batches_a_step_has(callback, accumulated):
    stream = SimpleNamespace(handed_at=time.perf_counter(), waited_s=0.0)
    trainer = SimpleNamespace(
        global_step=5, accumulate_grad_batches=accumulated, world_size=1, datamodule=SimpleNamespace(stream=stream)
    )
    batch, module, called = SimpleNamespace(global_=[range(4)]), Logged(), callback(every_n_steps=2)
    called.on_train_start(trainer, module)
    for number in range(1, 8 * accumulated + 1):
        module.batch = number
        trainer.global_step += number % accumulated == 0
        called.on_train_batch_end(trainer, module, {"objective": torch.tensor(float(number))}, batch, number)
    assert sorted(set(module.at)) == [2 * accumulated * point for point in (1, 2, 3, 4)]
    if callback is Throughput:
        last = range(6 * accumulated + 1, 8 * accumulated + 1)  # the batches of two steps
        assert called.loss_last == sum(last) / len(last)
