"""The images of a step may come in other batches, or on other devices, when a run goes on."""

import pytest
import torch

from commands import command
from cxrbase.cli import main
from cxrbase.joint_batch import return_to_step, take_up_batch
from two_processes import end_two, start_two

pytestmark = pytest.mark.filterwarnings("ignore")


def assert_same_to_rounding(other, whole):
    first, second = (torch.load(run / "last.ckpt", weights_only=True) for run in (other, whole))
    assert first["global_step"] == second["global_step"]
    for part in ("stream", "images"):
        held, expected = (ckpt["CXRDataModule"][part] for ckpt in (first, second))
        if part == "stream":
            held, expected = ({k: v for k, v in each.items() if k != "batches"} for each in (held, expected))
        assert held == expected
    assert first["loops"]["fit_loop"]["epoch_progress"] == second["loops"]["fit_loop"]["epoch_progress"]
    assert first["lr_schedulers"] == second["lr_schedulers"]
    torch.testing.assert_close(first["state_dict"], second["state_dict"], rtol=1e-3, atol=2e-4)


# Three steps of eight images an epoch, or four where the last one is kept.
SPLIT = ["--trainer.max_steps=8", "--trainer.max_epochs=9", "--checkpoint.every_n_train_steps=1",
         "--checkpoint.save_top_k=-1", "--probe.enabled=false", "--figures.enabled=false",
         "--model.drop_path=0.0"]  # fmt: skip


def go_on(name, words, root, whole, other, *, step):
    (path,) = whole.glob(f"*step={step}.ckpt")
    return main(command(name, *SPLIT, *words, f"--ckpt_path={path}", root=root, run_dir=other))


@pytest.mark.parametrize(
    ("name", "drop", "step", "splits"),
    [
        ("mae", True, 2, [4, 2]),
        ("dino", True, 3, [4]),
        pytest.param("mae", False, 4, [4, 2], marks=pytest.mark.slow),
        ("dino", False, 5, [2]),
    ],
)
def test_a_step_may_be_split_into_other_batches(name, drop, step, splits, image_folder, tmp_path):
    words = [f"--data.drop_last={str(drop).lower()}"]
    if name == "dino":
        words += ["--model.objective.batch_norm=false", "--model.objective.centring=mean"]
    whole = tmp_path / "whole"
    assert main(command(name, *SPLIT, *words, root=image_folder, run_dir=whole)) == 0
    for size in splits:
        other = tmp_path / f"{size}"
        split = [*words, f"--data.batch_size={size}", f"--trainer.accumulate_grad_batches={8 // size}"]
        assert go_on(name, split, image_folder, whole, other, step=step) == 0
        assert_same_to_rounding(other, whole)
        # And back, within another epoch.
        back = tmp_path / f"{size}-back"
        assert go_on(name, words, image_folder, other, back, step=step + 2) == 0
        assert_same_to_rounding(back, whole)


@pytest.mark.slow
def test_half_the_processes_go_on_with_twice_the_accumulation(image_folder, tmp_path):
    whole, other = tmp_path / "whole", tmp_path / "other"
    words = [*SPLIT, "--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words = command("mae", *words, root=image_folder, run_dir=whole)
    end_two(start_two(lambda rank: ["-m", "cxrbase", *words]))
    split = ["--data.batch_size=4", "--trainer.accumulate_grad_batches=2"]
    assert go_on("mae", split, image_folder, whole, other, step=2) == 0
    assert_same_to_rounding(other, whole)


def test_a_step_whose_images_are_compared_is_not_split(image_folder, tmp_path, capfd):
    whole = tmp_path / "whole"
    assert main(command("simclr", *SPLIT, "--trainer.max_steps=2", root=image_folder, run_dir=whole)) == 0
    split = ["--data.batch_size=4", "--trainer.accumulate_grad_batches=2"]
    assert go_on("simclr", split, image_folder, whole, tmp_path / "other", step=2) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    for part in ("SimCLR compares the images of a batch", "8 images x 1 accumulated", "4 images x 2 accumulated"):
        assert part in error


def test_batches_of_a_checkpoint_from_within_a_step_are_counted_from_its_beginning():
    def held(ready, *, last):
        counts = {"ready": ready, "started": ready, "processed": ready, "completed": ready - 1}
        progress = {"current": dict(counts), "total": dict(counts), "is_last_batch": last}
        loops = {"fit_loop": {"epoch_loop.batch_progress": progress}}
        batch = {"images": 4, "accumulated": 2}
        return {"loops": loops, "CXRDataModule": {"stream": {"batches": ready, "images": 4 * ready}}, "batch": batch}

    def taken_up(checkpoint):
        return_to_step(checkpoint)
        take_up_batch(checkpoint, {"images": 2, "accumulated": 4}, name="MAE", coupled=False)
        stream = checkpoint["CXRDataModule"]["stream"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        assert stream["batches"] == progress["ready"]
        return progress, stream["images"]

    whole = {"ready": 12, "started": 12, "processed": 12, "completed": 11}
    assert taken_up(held(6, last=False)) == (whole, 24)
    assert taken_up(held(7, last=False)) == (whole | {"completed": 12}, 24)
    assert taken_up(held(7, last=True))[0]["completed"] == 15  # the last step of an epoch may have fewer batches
