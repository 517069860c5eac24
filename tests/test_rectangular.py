"""Images that are not square: the whole command for each objective, and what is done with its encoder."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from commands import command
from cxrbase.backbones import load_encoder
from cxrbase.cli import main
from cxrbase.data.augment import Augment
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.labelled import LabelledImages
from cxrbase.data.manifest import Manifest
from cxrbase.data.phantom import make_phantom
from cxrbase.data.views import CPUCrop
from cxrbase.views import RandomViews, centre_view
from task_runs import PATIENTS
from task_runs import words as finetuning
from test_evaluate_cli import words as evaluation

HEIGHT, WIDTH = 24, 40
WORDS = {
    "mae": ["--data.views.crop_on=cpu"],
    "dino": ["--data.views.local_size=[8,16]", "--model.compile=eager"],
    "simclr": ["--data.canvas_size=null"],
}


def features(vit, images):
    with torch.inference_mode():
        return vit.eval().forward_features(images)


@pytest.mark.parametrize("name", list(WORDS))
def test_a_run_leaves_an_encoder_that_reads_back_the_same(name, fit, image_folder, tmp_path):
    summary = fit(name, f"--data.image_size=[{HEIGHT},{WIDTH}]", *WORDS[name], figures=True)
    folder = fit.run_dir
    assert summary["image_size"] == [HEIGHT, WIDTH]
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= {"attention", "patch_features"}
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "objective.teacher_backbone.module." if name == "dino" else "objective.backbone."
    vit = load_encoder(folder)
    assert vit.patch_embed.grid_size == (HEIGHT // 8, WIDTH // 8)
    assert vit.pretrained_cfg["input_size"] == (1, HEIGHT, WIDTH)
    for key, value in vit.state_dict().items():
        torch.testing.assert_close(value, state[prefix + key], rtol=0, atol=0)

    assert main(["export", "--encoder", str(folder), "--to", "timm", "--out", str(tmp_path / "exported")]) == 0
    images = torch.randn(2, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        features(load_encoder(tmp_path / "exported"), images), features(vit, images), rtol=0, atol=0
    )

    image = sorted(image_folder.glob("*.png"))[0]
    out = tmp_path / "features.parquet"
    assert main(["embed", "--encoder", str(folder), str(image), "--out", str(out), "--device", "cpu"]) == 0
    card, grey = json.loads((folder / "encoder.json").read_text()), torch.from_numpy(np.array(Image.open(image)))
    sizes = torch.tensor([grey.shape])
    view = centre_view(grey[None, None], sizes, out=(HEIGHT, WIDTH), mean=card["mean"], std=card["std"])
    token = features(vit, view)[0, 0].numpy()
    np.testing.assert_allclose(pq.read_table(out)["cls"][0].as_py(), token, atol=1e-5)
    assert main(["explain", "--model", str(folder), str(image), "--out", str(tmp_path / "maps")]) == 0
    with Image.open(tmp_path / "maps" / "rollout.png") as drawn:
        assert drawn.size == (grey.shape[1], grey.shape[0])


@pytest.mark.slow
def test_an_encoder_is_scored_and_fine_tuned(fit, tmp_path):
    fit("mae", f"--data.image_size=[{HEIGHT},{WIDTH}]", "--probe.enabled=false")
    (tmp_path / "encoder").symlink_to(fit.run_dir)
    make_phantom(tmp_path / "phantom", patients=60, image_size=48, seed=5, workers=1)
    assert main(evaluation(tmp_path / "phantom", tmp_path / "scores", fit.run_dir)) == 0
    row = json.loads(next((tmp_path / "scores" / "results").glob("*.json")).read_text())
    assert row["encoder"]["image_size"] == [HEIGHT, WIDTH]

    make_phantom(tmp_path / "few" / "phantom", patients=PATIENTS, image_size=32, seed=2, workers=1)
    (tmp_path / "few" / "encoder").symlink_to(fit.run_dir)
    size = ["--finetune.image_size=[16,24]", "--finetune.epochs=1"]
    assert main(finetuning(tmp_path / "few", "phantom", *size)) == 0
    out = tmp_path / "found.csv"
    images = str(tmp_path / "few" / "phantom")
    assert main(["predict", "--model", str(tmp_path / "few" / "run"), images, "--out", str(out), "--device=cpu"]) == 0


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (32, 32)])
def test_labelled_images_are_learnt_from_at_the_size_and_place_they_are_judged_at(size, tmp_path):
    generator = np.random.default_rng(0)
    paths = [f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(generator.integers(1, 256, size, dtype=np.uint8)).save(tmp_path / path)
    store = CanvasStore.open(Manifest.from_columns({"path": paths}, root=tmp_path), size=48, cache_dir=tmp_path / "c")
    rows, still = np.arange(4), Augment((1.0, 1.0), (1.0, 1.0), rotate=0.0, jitter=0.0, gamma=0.0, erase=0.0)
    data = LabelledImages(store, np.float32(np.eye(4)), train=rows, val=rows, image_size=size, mean=0.5, std=0.25,
                          batch_size=4, augment=still)  # fmt: skip
    images, targets = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    judged = next(iter(data.centre_batches(rows, device=torch.device("cpu"))))
    assert images.shape == judged.shape == (4, 1, *size)
    torch.testing.assert_close(images, judged[targets.argmax(1)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(40, 40), (64, 24), (24, 64)])
def test_the_centre_view_is_the_largest_part_of_its_shape_unstretched(sizes):
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = torch.stack([rows, columns])[:, None]
    height, width = sizes
    view = centre_view(images, torch.tensor([sizes, sizes]), out=(12, 24), mean=0.0, std=1 / 255)
    step = min(height / 12, width / 24)
    down, across = view[0, 0].mean(1), view[1, 0].mean(0)
    # Away from the edges, where antialiasing leans inwards; to a sixth of a pixel, as whole pixels are weighed.
    assert float(down[8] - down[3]) == pytest.approx(5 * step, abs=0.35)
    assert float(across[20] - across[3]) == pytest.approx(17 * step, abs=0.35)
    assert down.mean() == pytest.approx((height - 1) / 2, abs=1e-3)
    assert across.mean() == pytest.approx((width - 1) / 2, abs=1e-3)


@pytest.mark.parametrize("size", [(16, 32), (32, 16)])
def test_random_crops_stretch_as_much_as_square_ones(size):
    images = torch.zeros(1, 1, 512, 512, dtype=torch.uint8).expand(64, -1, -1, -1)
    views = RandomViews(num_local=1, global_scale=(0.2, 0.4))
    made = views(images, torch.full((64, 2), 512), torch.arange(64), out=size, mean=0, std=1, seed=0, epoch=0)
    assert made.global_[0].shape == (64, 1, *size)
    assert made.local[0].shape == (64, 1, round(size[0] * 3 / 7), round(size[1] * 3 / 7))
    crop = CPUCrop(size, scale=(0.1, 0.3), ratio=(0.75, 4 / 3))
    shapes = [crop.box((512, 512), (0, 0, number))[2:] for number in range(64)]
    stretch = [math.log((wide / high) / (size[1] / size[0])) for high, wide in shapes]
    assert max(map(abs, stretch)) < math.log(4 / 3) + 0.02
    assert crop(np.zeros((64, 64), np.uint8), (0, 0, 0)).shape == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.image_size=[24,36]"], "data.image_size is [24, 36], which patches of 8 pixels do not tile"),
        (["--data.image_size=[24]"], "data.image_size: "),
        (["--data.image_size=[0,32]"], "Expected a positive image size"),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence(words, said, image_folder, tmp_path, capsys):
    try:
        code = main(command("mae", *words, root=image_folder, run_dir=tmp_path / "run"))
    except SystemExit as stopped:
        code = stopped.code
    assert code != 0
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_size_that_cannot_be_is_refused_before_the_untrained_network_is_scored(tmp_path, capsys):
    words = ["--data.phantom.patients=60", "--data.phantom.image_size=32", "--data.image_size=36"]
    assert main(command("mae", *words, root=tmp_path / "images", run_dir=tmp_path / "run", data="phantom")) == 1
    error = capsys.readouterr().err
    assert "data.image_size is 36, which patches of 8 pixels do not tile" in error
    assert "Traceback" not in error
    assert not (tmp_path / "images").exists()
