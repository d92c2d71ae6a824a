"""Unit vectors: the values of torch's `normalize`, and its derivatives in fewer operators."""

import pytest
import torch
from torch.nn import functional as F

from beta_clip_hf.model.unit_vectors_beta_clip import UnitVectors, normalize


def embeds_of(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-2),
        (torch.float16, torch.float32, 1e-3),
    ],
)
def test_values_and_gradients_are_those_of_torch(dtype, result, tolerance):
    embeds = embeds_of(dtype)
    weights = torch.arange(60.0).reshape(3, 4, 5).to(result) / 60
    units = normalize(embeds)
    expected = F.normalize(embeds.to(result), dim=-1)
    assert units.dtype == result and torch.equal(units, expected)
    assert units.grad_fn.name() == "UnitVectorsBackward"
    (gradient,) = torch.autograd.grad((units * weights).sum(), embeds)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), embeds)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance)


def test_first_and_second_derivatives():
    embeds = embeds_of()
    assert torch.autograd.gradcheck(normalize, embeds)
    assert torch.autograd.gradgradcheck(normalize, embeds)


def test_a_vector_of_zeros_stays_finite():
    embeds = torch.zeros(2, 3, requires_grad=True)
    units = normalize(embeds)
    units.backward(torch.ones(2, 3))
    assert torch.equal(units, torch.zeros(2, 3))
    twin = torch.zeros(2, 3, requires_grad=True)
    F.normalize(twin, dim=-1).backward(torch.ones(2, 3))
    assert torch.equal(embeds.grad, twin.grad)


def test_without_gradients_it_is_torchs_own():
    embeds = embeds_of()
    with torch.no_grad():
        assert normalize(embeds).grad_fn is None
    assert normalize(embeds.detach()).grad_fn is None


def test_function_transforms_know_it():
    embeds = embeds_of().detach()

    def total(rows):
        units, _ = UnitVectors.apply(rows)
        return (units * torch.arange(5.0)).sum()

    gradient = torch.func.grad(total)(embeds)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(embeds), gradient)
    twin = embeds.clone().requires_grad_()
    (F.normalize(twin, dim=-1) * torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(gradient, twin.grad)
