"""DINO against the pseudocode of its paper in float64, and its teacher, centre and schedules in closed form."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from cxrbase.objectives.heads import DINOHead
from cxrbase.objectives.losses import balanced_probabilities, distillation_loss, teacher_probabilities
from cxrbase.views import Views


def pseudocode(teacher_logits, student_logits, *, centre, teacher_temperature, student_temperature):
    """Algorithm 1 of https://arxiv.org/abs/2104.14294 with its multi-crop sum over all pairs of different views."""

    def h(t, s):
        t = torch.softmax((t.double() - centre.double()) / teacher_temperature, dim=1)
        s = torch.softmax(s.double() / student_temperature, dim=1)
        return -(t * torch.log(s)).sum(dim=1).mean()

    pairs = [
        h(teacher, student)
        for t, teacher in enumerate(teacher_logits)
        for s, student in enumerate(student_logits)
        if s != t
    ]
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("local", [0, 1, 4])
@pytest.mark.parametrize("temperatures", [(0.04, 0.1), (0.07, 0.2), (1.0, 1.0)])
def test_loss_function_equals_the_pseudocode(local, temperatures):
    sharp, soft = temperatures
    teacher = [torch.rand(6, 32) * 2 - 1 for _ in range(2)]
    student = [(torch.rand(6, 32) * 2 - 1).requires_grad_() for _ in range(2 + local)]
    centre = 0.1 * torch.randn(32)
    targets = [teacher_probabilities(logits, centre=centre, temperature=sharp) for logits in teacher]
    loss = distillation_loss(targets, student, temperature=soft)
    expected = pseudocode(teacher, student, centre=centre, teacher_temperature=sharp, student_temperature=soft)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    gradients, wanted = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_local", [True, False])
def test_objective_equals_the_pseudocode_view_by_view(build, make_views, progress, with_local):
    options = {"teacher_temperature_start": 0.04, "teacher_temperature": 0.07, "teacher_warmup": 0.5}
    dino = build("DINO", student_temperature=0.1, **options)
    with torch.no_grad():
        dino.centre.normal_(std=0.05)
        for parameter in [*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters()]:
            parameter.add_(0.02 * torch.randn_like(parameter))
    views = make_views(dino)
    views = views if with_local else Views(views.global_, [])
    teacher = [dino.teacher_head(dino.teacher_backbone(crop)) for crop in views.global_]
    student = [dino.head(dino.backbone(crop)) for crop in [*views.global_, *views.local]]
    expected = pseudocode(
        teacher,
        student,
        centre=dino.centre,
        teacher_temperature={0.0: 0.04, 0.3: 0.058, 1.0: 0.07}[progress],
        student_temperature=0.1,
    )
    loss, logs = dino(views, progress)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    assert 0 <= logs["teacher_entropy"] <= math.log(64)


def test_logged_entropy_is_the_teachers(build, make_views):
    dino = build("DINO")
    views = make_views(dino)
    logits = dino.teacher_head(dino.teacher_backbone(torch.cat(views.global_)))
    expected = torch.distributions.Categorical(logits=logits / 0.04).entropy().mean()
    torch.testing.assert_close(dino(views, 0.5).logs["teacher_entropy"], expected, rtol=1e-4, atol=1e-5)


def test_logged_momentum_is_the_teachers_and_divergence_is_the_loss_without_entropy(build, make_views):
    dino = build("DINO", momentum=0.9)
    loss, logs = dino(make_views(dino), 0.5)
    assert float(logs["momentum"]) == pytest.approx(0.95)
    torch.testing.assert_close(logs["divergence"], loss.detach() - logs["teacher_entropy"])


def test_no_gradient_reaches_the_teacher_or_the_centre(build, make_views):
    dino = build("DINO")
    for parameter in [*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters()]:
        parameter.requires_grad_(True)
    dino(make_views(dino), 0.5).loss.backward()
    assert all(p.grad is None for p in [*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters()])
    assert not dino.centre.requires_grad


@pytest.mark.parametrize("centre_momentum", [0.0, 0.9, 1.0])
def test_centre_is_the_closed_form_of_its_moving_average(build, make_views, centre_momentum):
    dino = build("DINO", centre_momentum=centre_momentum)
    with torch.no_grad():
        for parameter in [*dino.backbone.parameters(), *dino.head.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))  # the centre is of the teacher, not of the student
    means = []
    for number in range(4):
        views = make_views(dino, seed=number)
        # The teacher moves too, so its mean is taken before each step.
        means.append(dino.teacher_head(dino.teacher_backbone(torch.cat(views.global_))).mean(0))
        dino(views, 0.5)
        dino.after_step(0.5)
    expected = sum((1 - centre_momentum) * centre_momentum ** (3 - n) * mean for n, mean in enumerate(means))
    torch.testing.assert_close(dino.centre, expected, rtol=1e-5, atol=1e-6)


def test_centre_weighs_micro_batches_by_their_images(build, make_views):
    dino = build("DINO", centre_momentum=0.0)
    small, large = make_views(dino, count=2, seed=1), make_views(dino, count=6, seed=2)
    both = torch.cat([*small.global_, *large.global_])
    expected = dino.teacher_head(dino.teacher_backbone(both)).mean(0)
    dino(small, 0.5)
    dino(large, 0.5)
    dino.after_step(0.5)
    torch.testing.assert_close(dino.centre, expected, rtol=1e-5, atol=1e-6)


def test_a_pass_in_evaluation_mode_does_not_move_the_centre(build, make_views):
    dino = build("DINO").eval()
    dino(make_views(dino), 0.5)
    assert dino.centre_count == 0
    assert dino.centre_sum.abs().sum() == 0


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.25, 0.9146447), (0.5, 0.95), (1.0, 1.0)])
def test_teacher_moves_by_the_momentum_of_the_moment(build, progress, momentum):
    dino = build("DINO", momentum=0.9)
    with torch.no_grad():
        for parameter in [*dino.backbone.parameters(), *dino.head.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    assert dino.momentum_at(progress) == pytest.approx(momentum)
    before = [copy.deepcopy(teacher.module.state_dict()) for teacher in (dino.teacher_backbone, dino.teacher_head)]
    dino.after_step(progress)
    for student, teacher, old in [
        (dino.backbone, dino.teacher_backbone, before[0]),
        (dino.head, dino.teacher_head, before[1]),
    ]:
        new = student.state_dict()
        expected = {name: momentum * value + (1 - momentum) * new[name] for name, value in old.items()}
        torch.testing.assert_close(teacher.module.state_dict(), expected, rtol=1e-5, atol=1e-5)


def test_momentum_rises_all_the_way_along_a_cosine(build):
    dino = build("DINO", momentum=0.996)
    values = [dino.momentum_at(step / 100) for step in range(101)]
    assert values == sorted(values)
    for step, value in enumerate(values):
        assert value == pytest.approx(1 - 0.004 * (math.cos(math.pi * step / 100) + 1) / 2)


def test_teacher_temperature_rises_linearly_then_stays(build):
    dino = build("DINO", teacher_temperature_start=0.04, teacher_temperature=0.07, teacher_warmup=0.2)
    found = [dino.teacher_temperature(progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([0.04, 0.0475, 0.055, 0.07, 0.07, 0.07])
    assert build("DINO", teacher_temperature=0.06).teacher_temperature(0.0) == 0.06


def test_prototypes_are_frozen_at_the_start_alone(build, make_views):
    dino = build("DINO", freeze_prototypes=0.1)
    views = make_views(dino)
    for progress, frozen in [(0.0, True), (0.099, True), (0.1, False), (0.9, False)]:
        dino.zero_grad()
        dino(views, progress).loss.backward()
        # A gradient of zero rather than none: distributed training waits for one of every parameter.
        assert (dino.head.prototypes.weight.grad.abs().sum() == 0) == frozen
        assert dino.head.mlp[0].weight.grad.abs().sum() > 0


def test_frozen_prototypes_give_the_same_output_and_the_same_gradient_below():
    head = DINOHead(8, 16, hidden_dim=8, bottleneck_dim=4)
    features = torch.randn(3, 8, requires_grad=True)
    free, frozen = head(features), head(features, freeze_prototypes=True)
    torch.testing.assert_close(frozen, free)
    torch.testing.assert_close(
        torch.autograd.grad(frozen.square().sum(), features), torch.autograd.grad(free.square().sum(), features)
    )


def test_head_gives_cosines_between_bottleneck_and_prototypes():
    head = DINOHead(8, 16, hidden_dim=8, bottleneck_dim=4)
    features = torch.randn(3, 8)
    expected = F.cosine_similarity(head.mlp(features)[:, None], head.prototypes.weight[None], dim=-1)
    torch.testing.assert_close(head(features), expected)
    with torch.no_grad():
        head.prototypes.weight.mul_(7)
    torch.testing.assert_close(head(features), expected)
    # Weight norm by hooks could not be copied after a forward pass.
    torch.testing.assert_close(copy.deepcopy(head)(features), expected)


def test_batch_norm_in_the_head_is_the_students_in_the_teacher_too(build, make_views):
    dino = build("DINO", batch_norm=True, momentum=0.5)
    views = make_views(dino)
    loss = dino(views, 0.0).loss
    loss.backward()
    dino.after_step(0.0)
    norms = [module for module in dino.head.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(norms) == 2
    copies = [module for module in dino.teacher_head.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    for own, copied in zip(norms, copies, strict=True):
        assert own.running_mean.abs().sum() > 0
        assert torch.equal(own.running_mean, copied.running_mean)
        assert not copied.training


def naive_sinkhorn(logits, temperature, iterations):
    """The algorithm of SwAV's appendix on plain numbers."""
    table = (logits.double() / temperature).exp()
    for _ in range(iterations):
        table = table / table.sum(0, keepdim=True) / table.shape[1]
        table = table / table.sum(1, keepdim=True) / table.shape[0]
    return table * table.shape[0]


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_is_the_naive_algorithm(iterations):
    logits = torch.randn(12, 8).clamp(-1, 1)
    expected = naive_sinkhorn(logits, 0.05, iterations)
    given = balanced_probabilities(logits, temperature=0.05, iterations=iterations)
    torch.testing.assert_close(given, expected.float(), rtol=1e-4, atol=1e-5)


def test_sinkhorn_balances_prototypes_and_survives_extreme_logits():
    logits = torch.randn(16, 4) + torch.tensor([5.0, 0.0, -5.0, 0.0])
    balanced = balanced_probabilities(logits, temperature=0.5, iterations=200)
    torch.testing.assert_close(balanced.sum(0), torch.full((4,), 4.0), rtol=1e-3, atol=1e-3)
    extreme = balanced_probabilities(logits.bfloat16() * 1e4, temperature=0.01)
    assert extreme.dtype == torch.float32
    assert torch.isfinite(extreme).all()
    torch.testing.assert_close(extreme.sum(1), torch.ones(16))


def test_dino_with_sinkhorn_uses_balanced_targets(build, make_views):
    dino = build("DINO", centring="sinkhorn", teacher_temperature=0.05)
    views = make_views(dino)
    logits = dino.teacher_head(dino.teacher_backbone(torch.cat(views.global_)))
    targets = balanced_probabilities(logits, temperature=0.05)
    entropy = -(targets * targets.log()).sum(1).mean()
    torch.testing.assert_close(dino(views, 1.0).logs["teacher_entropy"], entropy)
    with pytest.raises(ValueError, match="centring must be mean or sinkhorn"):
        build("DINO", centring="none")
