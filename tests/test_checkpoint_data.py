"""A run goes on with pixels made as they were; where they are kept and how they are read may be another."""

import torch

from commands import command
from cxrbase.cli import main

QUIET = ["--probe.enabled=false", "--trainer.max_steps=4"]
OTHERS = [
    (["--data.mean=0.2", "--data.std=0.9"], "with data.mean 0.506, now it is 0.2"),
    (["--data.std=0.9"], "with data.std 0.252, now it is 0.9"),
    (["--data.window=dicom"], "with data.window percentile, now it is dicom"),
    (["--data.crop_borders=true"], "with data.crop_borders False, now it is True"),
    (["--data.views.global_scale=[0.3, 0.9]"], "with data.views.global_scale [0.5, 1.0], now it is [0.3, 0.9]"),
    (["--data.views.flip=0"], "with data.views.flip 0.5, now it is 0.0"),
]


def test_pixels_made_otherwise_are_refused_by_the_first_setting_that_differs(fit, image_folder, tmp_path, capfd):
    fit("mae", "--probe.enabled=false")
    for words, said in OTHERS:
        again = [*QUIET, *words, f"--ckpt_path={fit.run_dir}"]
        assert main(command("mae", *again, root=image_folder, run_dir=tmp_path / "other")) == 1
        error = capfd.readouterr().err.splitlines()[-1]
        assert said in error
        assert "use the same settings to go on" in error


def test_where_images_are_kept_and_who_reads_them_may_change(fit, image_folder, tmp_path):
    fit("mae", "--probe.enabled=false", "--data.views.local_size=[16, 16]")
    again = [*QUIET, "--data.views.local_size=[16, 16]", f"--data.cache_dir={tmp_path / 'cache'}"]
    again += ["--data.canvas_size=48", "--data.cache_gb=1", "--data.decode_threads=1", f"--ckpt_path={fit.run_dir}"]
    assert main(command("mae", *again, root=image_folder, run_dir=fit.run_dir)) == 0


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_views(fit, image_folder, tmp_path):
    fit("mae", "--probe.enabled=false")
    held = torch.load(fit.run_dir / "last.ckpt", weights_only=True)
    del held["views"]
    torch.save(held, tmp_path / "earlier.ckpt")
    again = [*QUIET, "--data.views.flip=0", f"--ckpt_path={tmp_path / 'earlier.ckpt'}"]
    assert main(command("mae", *again, root=image_folder, run_dir=tmp_path / "other")) == 0
