"""Classifier: losses against loops, heads, frozen encoders, a small set learnt by heart, and epochs by validation."""

import lightning as L
import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from cxrbase.data.augment import Augment
from cxrbase.data.canvas import CanvasStore
from cxrbase.data.labelled import LabelledImages
from cxrbase.data.manifest import Manifest
from cxrbase.errors import CXRBaseError
from cxrbase.evaluation.classifier import Classifier, predict, validation_score
from cxrbase.evaluation.finetune_fit import BestEpoch
from cxrbase.evaluation.heads import Head, log_odds, masked_bce, one_of_many

STILL = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), rotate=0.0, jitter=0.0, gamma=0.0, erase=0.0)


def vit(**options):
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(shape | {"num_classes": 0} | options))


def test_masked_bce_is_the_mean_of_a_loop_over_known_labels():
    generator = torch.Generator().manual_seed(1)
    logits = 6 * torch.randn(9, 4, generator=generator)
    targets = torch.rand(9, 4, generator=generator)
    targets[torch.rand(9, 4, generator=generator) < 0.4] = float("nan")
    for smoothing in (0.0, 0.1):
        terms = []
        for row in range(9):
            for column in range(4):
                y, z = float(targets[row, column]), float(logits[row, column])
                if y == y:
                    y = y * (1 - smoothing) + smoothing / 2
                    terms.append(-(y * np.log(1 / (1 + np.exp(-z))) + (1 - y) * np.log(1 - 1 / (1 + np.exp(-z)))))
        assert float(masked_bce(logits, targets, smoothing=smoothing)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(masked_bce(logits, torch.full((9, 4), float("nan")))) == 0.0


def test_an_unknown_label_has_no_gradient():
    logits = torch.zeros(2, 2, requires_grad=True)
    masked_bce(logits, torch.tensor([[1.0, float("nan")], [0.0, 1.0]])).backward()
    assert logits.grad[0, 1] == 0
    assert (logits.grad[[0, 1, 1], [0, 0, 1]] != 0).all()


def test_smoothed_binary_loss_is_label_smoothing_over_two_classes():
    z, y = torch.randn(20), torch.randint(0, 2, (20,))
    two = F.cross_entropy(torch.stack([torch.zeros(20), z], 1), y, label_smoothing=0.1)
    torch.testing.assert_close(masked_bce(z[:, None], y[:, None].float(), smoothing=0.1), two)


def test_log_odds_of_a_softmax_and_its_loss():
    logits = torch.randn(7, 5, dtype=torch.float64)
    chance = logits.softmax(1)
    torch.testing.assert_close(log_odds(logits, one_of=True), (chance / (1 - chance)).log())
    assert log_odds(logits, one_of=False) is logits
    truth = torch.eye(5)[[0, 3, 2, 4, 1, 1, 0]]
    loss = F.cross_entropy(logits.float(), truth.argmax(1), label_smoothing=0.2)
    torch.testing.assert_close(one_of_many(logits, truth, smoothing=0.2), loss)


@pytest.mark.parametrize("mode", ["finetune", "probe", "attentive"])
def test_heads_give_a_score_per_class_whatever_the_order_of_the_tokens(mode):
    torch.manual_seed(0)
    head = Head(32, 3, mode=mode, num_heads=2).eval()
    torch.nn.init.normal_(head.linear.weight)
    tokens = torch.randn(4, 16, 32)
    scores = head(tokens)
    assert scores.shape == (4, 3)
    torch.testing.assert_close(head(tokens[:, torch.randperm(16)]), scores, rtol=1e-4, atol=1e-5)
    assert head.features(tokens).shape == (4, 32)


@pytest.mark.parametrize("mode", ["finetune", "probe", "attentive"])
def test_only_fine_tuning_touches_the_encoder(mode):
    classifier = Classifier(vit(), ["a"], mode=mode)
    classifier.train()
    assert classifier.encoder.training == (mode == "finetune")
    trained = {name.split(".")[0] for name, value in classifier.named_parameters() if value.requires_grad}
    assert trained == ({"encoder", "head"} if mode == "finetune" else {"head"})
    masked_bce(classifier.head(classifier.tokens(torch.randn(3, 1, 32, 32))), torch.ones(3, 1)).backward()
    touched = any(value.grad is not None for value in classifier.encoder.parameters())
    assert touched == (mode == "finetune")


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2"])
def test_encoders_with_other_prefixes_are_pooled_over_patches_alone(name):
    shape = {"img_size": 28, "embed_dim": 32, "depth": 1, "num_heads": 2, "in_chans": 1, "num_classes": 0}
    classifier = Classifier(timm.create_model(name, **shape), ["a", "b"]).eval()
    images = torch.randn(2, 1, 28, 28)
    assert classifier.tokens(images).shape == (2, 4, 32)
    assert classifier(images).shape == (2, 2)


@pytest.fixture
def images(tmp_path):
    """Twelve small images of random dots, which only who learns by heart can name."""
    from PIL import Image

    generator = np.random.default_rng(0)
    paths = [f"{n}.png" for n in range(12)]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / path)
    manifest = Manifest.from_columns({"path": paths}, root=tmp_path)
    return CanvasStore.open(manifest, size=32, cache_dir=tmp_path / "c")


def fitted(store, targets, *, epochs, kind="multilabel", callbacks=(), rows=None, **options):
    rows = np.arange(len(targets)) if rows is None else rows
    classifier = Classifier(vit(), [str(n) for n in range(targets.shape[1])], kind=kind, **options)
    data = LabelledImages(store, targets, train=rows, val=rows, image_size=32, mean=0.5, std=0.25, batch_size=6,
                          augment=STILL)  # fmt: skip
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(classifier, datamodule=data)
    found = predict(classifier, data.centre_batches(rows, device=torch.device("cpu"), batch_size=5))
    assert (found.pooled.shape, found.joined.shape) == ((len(rows), 32), (len(rows), 96))
    return classifier, found.logits


@pytest.mark.parametrize(("kind", "mode"), [("multilabel", "finetune"), ("multiclass", "finetune"),
                                            ("multilabel", "attentive")])  # fmt: skip
def test_a_small_set_is_learnt_by_heart(images, kind, mode):
    targets = np.float32(np.random.default_rng(1).integers(0, 2, (12, 3)))
    targets[0, 0] = np.nan
    if kind == "multiclass":
        targets = np.float32(np.eye(3)[np.arange(12) % 3])
    _, logits = fitted(images, targets, epochs=60, kind=kind, mode=mode, lr=0.1 if mode == "finetune" else 0.5,
                       layer_decay=0.9, smoothing=0.0, weight_decay=0.0)  # fmt: skip
    known = ~np.isnan(targets)
    assert ((logits > 0) == (targets > 0.5))[known].mean() > 0.97


def test_the_probe_learns_on_a_frozen_encoder(images):
    targets = np.float32(np.random.default_rng(1).integers(0, 2, (12, 1)))
    before = vit().state_dict()
    classifier, logits = fitted(images, targets, epochs=60, mode="probe", kind="binary", lr=1.0, smoothing=0.0)
    assert ((logits > 0) == (targets > 0.5)).all()
    for name, value in classifier.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_training_is_the_same_again(images):
    targets = np.float32(np.random.default_rng(1).integers(0, 2, (12, 2)))
    first, second = (fitted(images, targets, epochs=2)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_every_step_of_every_epoch_draws_anew_and_so_does_every_seed(images):
    class Look(L.Callback):
        def __init__(self):
            self.seeds = []

        def on_train_batch_end(self, *args):
            self.seeds.append(torch.initial_seed())

    looks = [Look(), Look(), Look()]
    for look, seed in zip(looks, (0, 0, 1), strict=True):
        fitted(images, np.ones((12, 1), np.float32), epochs=2, callbacks=[look], seed=seed)
    first, again, other = (look.seeds for look in looks)
    assert len(set(first)) == 4
    assert first == again
    assert not set(first) & set(other)


@pytest.mark.parametrize(("kind", "smoothing"), [("multilabel", 0.0), ("binary", 0.2), ("multiclass", 0.2)])
def test_labels_are_smoothed_where_there_is_a_single_answer(kind, smoothing):
    assert Classifier(vit(), ["a", "b"], kind=kind, smoothing=0.2).smoothing == smoothing


def test_optimiser_options_reach_the_optimiser(images):
    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            self.groups = [dict(group) for group in trainer.optimizers[0].param_groups]

        def on_train_batch_end(self, trainer, *args):
            self.last = trainer.optimizers[0].param_groups[-1]["lr"]

    look = Look()
    targets = np.ones((12, 1), np.float32)
    fitted(images, targets, epochs=3, callbacks=[look], lr=0.256, layer_decay=0.5, weight_decay=0.3,
           betas=(0.8, 0.9), warmup=0.0, min_lr=0.25)  # fmt: skip
    assert {group["weight_decay"] for group in look.groups} == {0.0, 0.3}
    assert {tuple(group["betas"]) for group in look.groups} == {(0.8, 0.9)}
    peak = 0.256 * 6 / 256
    assert look.groups[-1]["lr"] == pytest.approx(peak)
    assert look.groups[0]["lr"] == pytest.approx(peak * 0.5**3)
    assert look.last == pytest.approx(0.25 * peak, rel=0.3)


def test_a_loss_that_is_not_finite_stops_with_a_sentence(images):
    with pytest.raises(CXRBaseError, match=r"the loss is nan|the loss is inf"):
        fitted(images, np.ones((12, 1), np.float32), epochs=3, lr=float("inf"), warmup=0.0)


def test_the_best_epoch_is_kept_by_validation(images):
    seen = []

    class Look(BestEpoch):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            seen.append((float(trainer.callback_metrics["val/score"]), pl_module.head.linear.bias.detach().clone()))

    targets = np.float32(np.random.default_rng(1).integers(0, 2, (12, 1)))
    best = Look(targets, {})
    fitted(images, targets, epochs=6, callbacks=[best], lr=0.3, warmup=0.0)
    scores = [score for score, _ in seen]
    assert best.epoch == int(np.argmax(scores))
    assert best.score == pytest.approx(max(scores))
    torch.testing.assert_close(best.state["head.linear.bias"], seen[best.epoch][1])


def test_validation_score_is_auroc_or_minus_the_log_loss():
    logits = np.array([[2.0, 1.0], [-1.0, 3.0], [0.0, -2.0]])
    assert validation_score(logits, np.array([[1, np.nan], [0, np.nan], [0, np.nan]])) == 1.0
    loss = F.binary_cross_entropy_with_logits(torch.tensor(logits[:, 0]), torch.ones(3, dtype=torch.float64))
    assert validation_score(logits[:, :1], np.ones((3, 1))) == pytest.approx(-float(loss))
    assert validation_score(logits, np.full((3, 2), np.nan)) == float("-inf")
