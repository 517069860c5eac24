"""Collapse is told by name: in runs that really collapse, and not in healthy ones."""

import logging
import math

import pytest
from torch import nn

import small_runs
from commands import command
from cxrbase.callbacks import collapse
from cxrbase.callbacks.collapse import REMEDIES, Collapse, Look, symptoms
from cxrbase.callbacks.probe import FrozenProbe
from cxrbase.cli import main
from cxrbase.errors import CollapseError
from cxrbase.objectives import Loss, Objective

pytestmark = pytest.mark.filterwarnings("ignore")
SHARP = {"momentum": 0.0, "centre_momentum": 1.0, "freeze_prototypes": 0.0}  # neither centring nor a slow teacher
FLAT = {"teacher_temperature": 0.5, "teacher_temperature_start": 0.5, "momentum": 0.5, "freeze_prototypes": 0.0}


class Attract(Objective):
    """Pulls two crops together, and nothing apart: collapses for certain."""

    num_global_views = 2

    def forward(self, views, progress):
        first, second = (self.backbone.forward_features(crop) for crop in views.global_)
        cosine = nn.functional.cosine_similarity(first, second.roll(1, 0), dim=-1)
        return Loss((1 - cosine).mean(), {})


def watched(**settings):
    probe = FrozenProbe(enabled=False, monitor_every=10, monitor_images=16)
    watch = Collapse(**{"every_n_steps": 10, **settings})
    watch.probe = probe
    return [probe, watch]


def told(caplog):
    return {name for name in REMEDIES if f"collapse ({name})" in caplog.text}


def train(name, root, caplog, *, callbacks, **settings):
    with caplog.at_level(logging.WARNING, logger="cxrbase"):
        return small_runs.train(name, root, callbacks=callbacks, **{"steps": 80, "model": {"warmup": 0.1}, **settings})


@pytest.mark.parametrize("name", ["mae", "dino_balanced", "simclr"])
def test_healthy_runs_are_left_in_peace(name, image_folder, caplog):
    assert train(name, image_folder, caplog, callbacks=watched(on_collapse="stop"))["steps"] == 80
    assert not told(caplog)


def test_without_centring_and_a_slow_teacher_one_prototype_wins(image_folder, caplog):
    train("dino", image_folder, caplog, callbacks=watched(), objective=SHARP)
    assert told(caplog) == {"one prototype"}
    assert "centring: sinkhorn" in caplog.text
    assert caplog.text.count("collapse (one prototype)") == 1


def test_without_sharpening_the_teacher_is_uniform_and_the_run_can_be_stopped(image_folder, caplog):
    with pytest.raises(CollapseError, match=r"stopped at step \d+ by a collapse \(.*uniform teacher.*teacher_temp"):
        train("dino", image_folder, caplog, callbacks=watched(on_collapse="stop"), objective=FLAT)
    assert {"uniform teacher", "constant loss"} >= told(caplog) > set()


def test_the_words_of_a_command_reach_the_watch_and_its_features(image_folder, tmp_path, monkeypatch, capfd):
    seen = []
    monkeypatch.setattr(collapse, "symptoms", lambda look: seen.append(look) or {"equal features": "made"})
    words = ["--collapse.on_collapse=stop", "--collapse.every_n_steps=1", "--collapse.patience=2", "--collapse.after=0"]
    words += ["--trainer.max_steps=8", "--probe.monitor_every=1"]
    assert main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run")) == 1
    assert "stopped at step 2 by a collapse (equal features)" in capfd.readouterr().err
    assert len(seen) == 2
    assert seen[-1].std > 0


def test_equal_features_are_seen_whatever_the_objective(image_folder, caplog, monkeypatch):
    monkeypatch.setitem(small_runs.KINDS, "attract", (Attract, {}, {"num_global": 2}))
    train("attract", image_folder, caplog, callbacks=watched(), model={"lr": 0.3, "warmup": 0.1})
    assert {"equal features"} <= told(caplog) <= {"equal features", "one direction"}


def test_signs_are_told_apart():
    limit = math.log(64)
    healthy = Look(loss=0.8 * limit, same=limit, entropy=0.5 * limit, std=0.3, rank=5.0)
    assert symptoms(healthy) == {}
    assert symptoms(Look(loss=0.9)) == {}
    for sign, changed in {
        "constant loss": {"loss": limit * 1.001},
        "uniform teacher": {"entropy": 0.999 * limit},
        "one prototype": {"entropy": 0.001},
        "equal features": {"std": 0.001},
        "one direction": {"rank": 1.01},
    }.items():
        assert list(symptoms(healthy._replace(**changed))) == [sign]


def test_a_look_of_its_own_or_too_early_is_not_a_collapse(image_folder, caplog):
    train("dino", image_folder, caplog, callbacks=watched(patience=99), objective=SHARP, steps=40)
    train("dino", image_folder, caplog, callbacks=watched(after=0.95, patience=2), objective=SHARP, steps=40)
    assert not told(caplog)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_collapse": "cry"}, "warn or stop, got 'cry'"),
        ({"patience": 0}, "at least 1, got 100 and 0"),
        ({"after": 1.0}, r"\[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Collapse(**wrong)
