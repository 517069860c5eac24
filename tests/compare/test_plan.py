"""The grid: which cells there are, what words they get, what changes their key, and how budgets become steps."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import cxrbase
from cxrbase.backbones import UNTRAINED
from cxrbase.compare.cost import build, flops_per_image, steps_for
from cxrbase.compare.plan import CONTROL, Axis, code_version
from cxrbase.compare.scoring import opening, settings_of
from cxrbase.errors import ConfigError


def test_a_cell_for_every_value_of_every_axis(plan):
    axes = {
        "mask": Axis(
            {"0.5": ["--model.objective.mask_ratio=0.5"], "0.9": ["--model.objective.mask_ratio=0.9"]}, ["mae"]
        )
    }
    cells = replace(plan, axes=axes, precisions=["32-true", "bf16-mixed"]).cells()
    # Per seed: the control, MAE in 2 precisions x 2 masks, two others in 2 precisions.
    assert len(cells) == 3 * (1 + 4 + 2 + 2)
    assert len({cell.title for cell in cells}) == len(cells)
    mae = next(cell for cell in cells if cell.axes == {"mask": "0.9"} and cell.precision == "bf16-mixed")
    assert mae.arm == "mae bf16-mixed 0.9"
    assert mae.settings["model"]["objective"]["init_args"]["mask_ratio"] == 0.9
    assert mae.settings["trainer"]["precision"] == "bf16-mixed"
    assert sum(cell.objective == CONTROL for cell in cells) == 3


def test_words_in_the_short_form_reach_objective_and_views(plan):
    axes = {"mask": Axis({"m60": ["--model.objective.mask_ratio=0.6"]}, ["mae"])}
    short = replace(plan, axes=axes, words=["--data.views.global_scale=[0.3, 1.0]"]).cells()[1]
    module, data = build(short.settings)
    assert (module.objective.mask_ratio, data.views.global_scale) == (0.6, (0.3, 1.0))
    axes = {"mask": Axis({"m60": ["--model.objective.init_args.mask_ratio=0.6"]}, ["mae"])}
    whole = replace(plan, axes=axes, words=["--data.views.init_args.global_scale=[0.3, 1.0]"]).cells()[1]
    assert short.key(plan, data="a") == whole.key(plan, data="a")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--model.objective.mask_ratoi=0.6", "'mask_ratoi' is not accepted .*; did you mean model.*mask_ratio"),
        ("--data.views.global_scal=1", "correct words or axes, .*'global_scal' is not accepted"),
        ("--data.batch_size=many", r"data\.batch_size: Expected a int\. Got value: many"),
    ],
)
def test_a_word_that_fit_does_not_take_is_answered_in_a_sentence(plan, word, said):
    with pytest.raises(ConfigError, match=said) as error:
        build(replace(plan, words=[word]).cells()[1].settings)
    assert "\n" not in str(error.value)


def test_a_function_in_place_of_an_objective_is_refused_before_it_is_called(tmp_path):
    objective = {"class_path": "os.mkdir", "init_args": {"path": str(tmp_path / "done")}}
    with pytest.raises(ConfigError, match=r"a class derived from cxrbase\.objectives\.Objective, got os\.mkdir"):
        build({"model": {"objective": objective}, "data": {"root": "x"}})
    assert not (tmp_path / "done").exists()


def test_tasks_are_opened_and_scored_with_the_limits_of_the_plan(plan):
    wanted = replace(plan, max_bad=0.2, cache_gb=0.5)
    settings, given = settings_of(wanted), opening(wanted)
    assert (settings.max_bad, settings.cache_gb) == (given["max_bad"], given["limit_gb"]) == (0.2, 0.5)


def test_a_cell_over_several_machines_is_refused(plan):
    with pytest.raises(ConfigError, match=r"each cell of a comparison runs on one machine, got trainer\.num_nodes=2"):
        replace(plan, words=["--trainer.num_nodes=2"]).cells()
    assert replace(plan, words=["--trainer.num_nodes=1"]).cells()


def test_no_control_where_none_is_wanted(plan):
    assert CONTROL not in {cell.objective for cell in replace(plan, control=False).cells()}


def test_the_key_changes_with_whatever_changes_a_result(plan):
    cell = plan.cells()[1]
    key = cell.key(plan, data="a")
    assert key == plan.cells()[1].key(plan, data="a")
    others = [
        cell.key(plan, data="b"),
        cell.key(replace(plan, amounts={"images": 65.0}), data="a"),
        cell.key(replace(plan, points=2), data="a"),
        cell.key(replace(plan, shots=[1]), data="a"),
        cell.key(replace(plan, resamples=7), data="a"),
        replace(plan, words=["--model.lr=0.1"]).cells()[1].key(plan, data="a"),
        plan.cells()[2].key(plan, data="a"),
    ]
    assert len({key, *others}) == len(others) + 1
    assert "+" in code_version()


def test_only_what_changes_the_pretraining_changes_its_key(plan):
    cell = plan.cells()[1]
    key = cell.pretraining_key(plan, data="a")
    assert cell.pretraining_key(replace(plan, shots=[1], tasks=[]), data="a") == key
    others = [
        cell.pretraining_key(plan, data="b"),
        cell.pretraining_key(replace(plan, amounts={"images": 65.0}), data="a"),
        cell.pretraining_key(replace(plan, points=2), data="a"),
        replace(plan, words=["--model.lr=0.1"]).cells()[1].pretraining_key(plan, data="a"),
        plan.cells()[2].pretraining_key(plan, data="a"),
        plan.cells()[5].pretraining_key(plan, data="a"),
    ]
    assert len({key, *others}) == len(others) + 1


# What a worker imports or a cell reads; whoever adds a module says whether it is one of these or of `_WITHOUT_EFFECT`.
RUN_BY_CELLS = {
    "__init__",
    "board",
    "cell_lock",
    "lifeline",
    "cost",
    "earlier",
    "heartbeat",
    "inputs",
    "plan",
    "run_cell",
    "scoring",
    "worker",
}


def test_only_code_that_a_cell_runs_changes_its_key(tmp_path, monkeypatch):
    package = tmp_path / "cxrbase"
    shutil.copytree(Path(cxrbase.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cxrbase, "__file__", str(package / "__init__.py"))
    changing = set()
    for path in (package / "compare").glob("*.py"):
        before = code_version()
        path.write_text(path.read_text() + "# other\n")
        if code_version() != before:
            changing.add(path.stem)
    assert changing == RUN_BY_CELLS


def test_the_control_is_the_same_whatever_the_order_of_objectives_and_budget_kind(plan):
    assert plan.cells()[0].objective == CONTROL


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "flops"}, "amounts must hold"),
        ({"amounts": {"images": 0.0}}, "amounts must hold"),
        ({"objectives": ["maee"]}, "there are dino, mae, simclr"),
        ({"size": "huge"}, "there are"),
        ({"experiments": "nowhere"}, "no folder nowhere: .* in a clone of it, or name its folder with --experiments"),
        ({"seeds": []}, "at least one"),
        ({"points": 0}, "at least 1"),
    ],
)
def test_a_wrong_plan_is_answered_in_a_sentence(plan, change, said):
    with pytest.raises(ConfigError, match=said):
        replace(plan, **change)


@pytest.mark.parametrize(
    ("budget", "amount", "steps"), [("images", 640, 10), ("flops", 6.4e11, 10), ("seconds", 32.0, 10)]
)
def test_steps_of_a_budget(budget, amount, steps):
    assert steps_for(budget, amount, global_batch=64, flops=1e9, seconds=0.05) == steps


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(ConfigError, match="not enough for one step"):
        steps_for("images", 10, global_batch=64, flops=1.0)


def test_flops_are_those_of_the_products_of_the_network(plan):
    """MAE's count against a closed form: 2 FLOPs per weight and token forward, 4 backward, and attention's products.

    That is what a plain step costs; ours leaves out products that nobody reads, about a tenth at this size.
    """
    module, data = build(plan.cells()[1].settings)
    objective = module.objective
    patches, kept = 36, 9
    tokens = {
        "blocks": 1 + kept,
        "decoder_blocks": 1 + patches,
        "decoder_embed": 1 + kept,
        "decoder_pred": patches - kept,
    }
    linear = sum(
        parameter.numel() * count
        for name, parameter in objective.named_parameters()
        if parameter.ndim == 2
        for part, count in tokens.items()
        if part in name and name.split(".")[0] in (part, "backbone") and ("decoder" in part) == ("decoder" in name)
    )
    vit = objective.backbone
    attention = len(vit.blocks) * 2 * (1 + kept) ** 2 * vit.embed_dim
    attention += len(objective.decoder_blocks) * 2 * (1 + patches) ** 2 * objective.decoder_embed.out_features
    stem = patches * vit.patch_embed.proj.weight.numel()
    # The stem needs no gradient of its input.
    expected = 2 * 3 * (linear + attention) + 2 * 2 * stem
    assert 0.8 * expected < flops_per_image(module, data) <= 1.001 * expected


def test_dino_costs_more_than_mae(plan):
    by_objective = {cell.objective: cell for cell in plan.cells()}
    counted = {name: flops_per_image(*build(by_objective[name].settings)) for name in ("mae", "dino", "simclr")}
    assert counted["dino"] > counted["simclr"] > counted["mae"] > 0


def test_the_control_is_called_what_its_encoder_says():
    assert CONTROL == UNTRAINED
