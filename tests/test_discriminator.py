"""The discriminator: hinge loss, who gets a gradient and who does not, spectral norm, resume, augmentation."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from model.train.losses.augment import augment
from model.train.losses.dino import DINOv2Maps, DINOv3ConvNextMaps
from model.train.losses.gan import Discriminator, discriminator_loss, generator_loss
from model.train.losses.mobilenet_v2 import MobileNetV2Maps
from model.train.losses.vgg16 import VGG16Maps
from tests.random_backbones import dinov2_folder, dinov3_folder, mobilenet_v2_file, vgg16_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mobilenet_v2_file(tmp_path_factory.mktemp("mobilenet"))


@pytest.fixture
def critic(weights: Path) -> Discriminator:
    return made(weights)


def made(weights: Path, chunk: int | None = None, augmented: bool = True) -> Discriminator:
    torch.manual_seed(0)
    backbone = MobileNetV2Maps(weights)
    return Discriminator(backbone, backbone.channels, chunk=chunk, augment=augmented)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=seeded(seed)) * 2 - 1


def norms(critic: Discriminator) -> list[float]:
    """The true spectral norm of each convolution of the heads, as a matrix."""
    found = [m.weight.flatten(1) for m in critic.heads.modules() if isinstance(m, nn.Conv2d)]
    return [torch.linalg.matrix_norm(weight, 2).item() for weight in found]


def test_the_hinge_loss_is_its_formula_and_its_gradient_is_right() -> None:
    real = [torch.tensor([[2.0, 0.5]]), torch.tensor([[-1.0]])]
    fake = [torch.tensor([[-3.0, 0.0]]), torch.tensor([[1.0]])]
    assert discriminator_loss(real, fake).item() == pytest.approx(((0.25 + 0.5) + (2 + 2)) / 2)
    assert generator_loss(fake).item() == pytest.approx((1.5 - 1) / 2)
    logits = [(torch.randn(2, 1, n, n, generator=seeded(n)).double() * 2).requires_grad_() for n in (2, 3, 2, 3)]
    assert gradcheck(lambda a, b, c, d: discriminator_loss([a, b], [c, d]), logits)
    assert gradcheck(lambda a, b: generator_loss([a, b]), logits[:2])


@pytest.mark.parametrize("chunk", [None, 24])
def test_the_generators_gradient_is_right(weights: Path, chunk: int | None) -> None:
    critic = made(weights, chunk).double()
    fake = images(1, side=32).double().requires_grad_()
    assert gradcheck(lambda x: critic.generator_term(x, seeded()), fake, fast_mode=True, atol=1e-6, rtol=1e-3)


def test_the_discriminators_gradient_is_right(weights: Path) -> None:
    critic = made(weights).double()
    real, fake = images(1).double(), images(2).double()
    parameters = list(critic.heads.parameters())
    gradients = torch.autograd.grad(critic.discriminator_term(real, fake, seeded()), parameters)
    directions = [torch.randn(p.shape, generator=seeded(n), dtype=p.dtype) for n, p in enumerate(parameters)]
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step, ends = 1e-7, []  # small: many units have a kink near
    with torch.no_grad():
        for sign in (1, -1):
            moved = copy.deepcopy(critic)
            torch._foreach_add_(list(moved.heads.parameters()), directions, alpha=sign * step)
            ends.append(moved.discriminator_term(real, fake, seeded()))
    assert ((ends[0] - ends[1]) / (2 * step)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_generators_step_leaves_the_discriminator_as_it_was(critic: Discriminator) -> None:
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    critic.train()
    fake = images(1).requires_grad_()
    critic.discriminator_term(images(2), images(3), seeded()).backward()
    own = [p.grad.clone() for p in critic.heads.parameters()]
    assert all(g.abs().max() > 0 for g in own if g.ndim == 4)
    critic.generator_term(fake, seeded()).backward()
    assert fake.grad is not None
    assert fake.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(critic.heads.parameters(), own, strict=True))
    assert all(p.requires_grad for p in critic.heads.parameters())
    assert all(torch.equal(critic.state_dict()[name], value) for name, value in before.items())


def test_the_heads_are_trained_again_after_a_generators_step_that_failed(critic: Discriminator) -> None:
    first = next(critic.heads.parameters()).requires_grad_(False)
    with pytest.raises(RuntimeError):
        critic.generator_term(torch.zeros(1, 5, 32, 32), seeded())
    assert not first.requires_grad
    assert all(p.requires_grad for p in list(critic.heads.parameters())[1:])


def test_the_discriminators_step_reaches_the_heads_alone(critic: Discriminator) -> None:
    real, fake = images(1).requires_grad_(), images(2).requires_grad_()
    critic(real, fake, seeded()).backward()
    assert real.grad is None
    assert fake.grad is None
    assert all(p.grad is not None for p in critic.heads.parameters())
    assert all(p.grad is None and not p.requires_grad for p in critic.backbone.parameters())
    trained = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert trained == {f"heads.{name}" for name, _ in critic.heads.named_parameters()}


def test_training_tells_noise_from_grey_within_the_spectral_bound(weights: Path) -> None:
    critic = made(weights, augmented=False)
    backbone = {name: value.clone() for name, value in critic.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(critic.heads.parameters(), lr=1e-3)
    terms, largest = [], []
    for step in range(40):
        optimizer.zero_grad()
        term = critic.discriminator_term(images(step), torch.zeros(2, 3, 32, 32), seeded(step))
        term.backward()
        optimizer.step()
        critic.power_iteration()
        terms.append(term.item())
        largest.append(max(norms(critic)))
    assert terms[-1] < 0.1 * terms[0]
    assert max(largest) <= 1.1  # power iteration lags a little behind so high a learning rate
    for _ in range(10):
        critic.power_iteration()
    assert norms(critic) == pytest.approx([1] * 12, abs=1e-3)
    assert all(torch.equal(critic.backbone.state_dict()[name], value) for name, value in backbone.items())


def test_the_heads_state_resumes_exactly(weights: Path) -> None:
    def steps(critic: Discriminator, numbers: range) -> None:
        optimizer = torch.optim.SGD(critic.heads.parameters(), lr=0.1)
        for step in numbers:
            optimizer.zero_grad()
            critic.discriminator_term(images(step), images(step + 100), seeded(step)).backward()
            optimizer.step()
            critic.power_iteration()

    straight, stopped = made(weights), made(weights)
    steps(straight, range(6))
    steps(stopped, range(3))
    torch.manual_seed(9)
    resumed = Discriminator(stopped.backbone, stopped.backbone.channels, chunk=None, augment=True)
    resumed.heads.load_state_dict(stopped.heads.state_dict())
    steps(resumed, range(3, 6))
    state = straight.heads.state_dict()
    assert any(name.endswith("_u") for name in state)
    assert all(torch.equal(resumed.heads.state_dict()[name], value) for name, value in state.items())


def test_micro_batches_add_up_to_one_batch(weights: Path) -> None:
    """What lets one process that accumulates equal several: no forward pass moves anything."""
    critic = made(weights, augmented=False)
    real, fake = images(1, count=4), images(2, count=4)

    def gradient(parts: int) -> list[Tensor]:
        critic.zero_grad()
        for a, b in zip(real.chunk(parts), fake.chunk(parts), strict=True):
            (critic.discriminator_term(a, b, seeded()) / parts).backward()
        return [p.grad.clone() for p in critic.heads.parameters()]

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradient(1), gradient(2), strict=True))


def test_large_images_are_judged_in_chunks(weights: Path) -> None:
    chunked, whole = made(weights, chunk=32, augmented=False), made(weights, augmented=False)
    fake = images(1, count=3, side=48)
    quarters = [fake[:, :, top : top + 32, left : left + 32] for top in (0, 16) for left in (0, 16)]
    expected = torch.stack([whole.generator_term(part, seeded()) for part in quarters]).mean()
    assert chunked.generator_term(fake, seeded()).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["vgg16", "dinov2", "dinov3"])
def test_every_backbone_can_judge(name: str, tmp_path: Path) -> None:
    backbone = {
        "vgg16": lambda: VGG16Maps(vgg16_file(tmp_path)),
        "dinov2": lambda: DINOv2Maps(dinov2_folder(tmp_path), levels=(2, 4)),
        "dinov3": lambda: DINOv3ConvNextMaps(dinov3_folder(tmp_path)),
    }[name]()
    critic = Discriminator(backbone, backbone.channels, chunk=42, augment=True)
    fake = images(1, side=64).requires_grad_()
    critic.generator_term(fake, seeded()).backward()
    assert fake.grad is not None
    assert fake.grad.abs().amax((1, 2, 3)).min() > 0
    critic.discriminator_term(images(2, side=64), fake, seeded()).backward()
    assert all(p.grad.abs().max() > 0 for p in critic.heads.parameters() if p.ndim == 4)


def test_the_heads_stay_in_float32_under_autocast(critic: Discriminator) -> None:
    exact = critic.generator_term(images(1), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        term = critic.generator_term(images(1), seeded())
        critic.discriminator_term(images(1), images(2), seeded()).backward()
    assert term.dtype == torch.float32
    assert term.item() == pytest.approx(exact.item(), rel=1e-5)
    assert {p.grad.dtype for p in critic.heads.parameters()} == {torch.float32}


def test_augmentation_repeats_with_its_generator_and_resumes_from_its_state() -> None:
    x, generator = images(1, count=3), seeded(5)
    first, state = augment(x, generator), generator.get_state()
    second = augment(x, generator)
    assert torch.equal(first, augment(x, seeded(5)))
    assert not torch.equal(first, second)
    generator.set_state(state)
    assert torch.equal(second, augment(x, generator))
    same = augment(x[:1].expand(3, -1, -1, -1), seeded(5))
    assert not torch.equal(same[0], same[1])  # each image by its own draw


def test_augmentation_changes_colour_and_place_and_hides_less_than_half() -> None:
    for seed in range(20):
        x = images(seed, count=2, side=40)
        y = augment(x, seeded(seed))
        assert y.shape == x.shape
        hidden = (y == 0).all(1).float().mean((1, 2))
        assert hidden.max() <= 1 / 4 + 1 - (7 / 8) ** 2  # the hole, and what was moved in
        assert hidden.min() >= 1 / 16


def test_augmentations_gradient_is_right() -> None:
    assert gradcheck(lambda x: augment(x, seeded(3)), images(1, count=2, side=9).double().requires_grad_())
