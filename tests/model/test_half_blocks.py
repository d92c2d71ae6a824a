"""Half blocks: the numbers and gradients of the plain path, half of its memory, and their own modules where needed."""

import copy
import logging

import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN, QuickGELUActivation

from beta_clip_hf.model.activations_beta_clip import FusedQuickGELU, fuse_in_training, fused_activation
from beta_clip_hf.model.half_block_functions_beta_clip import NormedProjections, Precision, ResidualLinear, ResidualMLP
from integration.uses import flat_batch, new_model, planned


DOUBLE = Precision(torch.float64, torch.float64)
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "silu")


class Run:
    """Loss and gradients of a training step, and how many half blocks it had."""

    def __init__(self, model, *, half_blocks, autocast=False, dtype=torch.float32):
        model.half_blocks = half_blocks
        model.zero_grad()
        batch = flat_batch()
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            self.loss = model(**batch, return_loss=True).loss
        self.half_blocks = count_half_blocks(self.loss)
        self.loss.backward()
        self.gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        self.flat_gradient = torch.cat([gradient.flatten().double() for gradient in self.gradients.values()])


def count_half_blocks(loss):
    """Half blocks in the graph of a loss."""
    names, stack = {}, [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in names:
            names[node] = node.name()
            stack += [parent for parent, _ in node.next_functions]
    return sum(name in ("NormedProjectionsBackward", "ResidualMLPBackward") for name in names.values())


@pytest.fixture
def model(tiny_clip_config):
    """A tiny model with both text paths, a pooler and regions, in training mode."""
    return new_model(tiny_clip_config).train()


ALL_HALF_BLOCKS = 2 * 2 * 2 + 1  # two halves in two blocks of two towers, and the MLP of the pooler


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gradients_are_those_of_the_modules(model, implementation):
    model.set_attn_implementation(implementation)
    twin = copy.deepcopy(model).double()
    exact = Run(twin, half_blocks=False, dtype=torch.float64)
    same = Run(twin, half_blocks=True, dtype=torch.float64)
    single = Run(model, half_blocks=True)
    plain_single = Run(copy.deepcopy(model), half_blocks=False)
    assert (exact.half_blocks, same.half_blocks, single.half_blocks) == (0, ALL_HALF_BLOCKS, ALL_HALF_BLOCKS)
    assert exact.gradients.keys() == same.gradients.keys() == single.gradients.keys()
    assert abs(same.loss - exact.loss) <= 1e-13 and abs(single.loss - exact.loss) <= 1e-5
    assert exact.flat_gradient.abs().max() > 0.1
    for name, gradient in exact.gradients.items():
        torch.testing.assert_close(same.gradients[name], gradient, rtol=0, atol=1e-13, msg=name)
        for expected in (gradient, plain_single.gradients[name].double()):
            difference = (single.gradients[name].double() - expected).abs().max()
            assert difference <= 1e-5 * max(1, gradient.abs().max()), name


@pytest.mark.slow
def test_gradients_under_autocast_are_as_good_as_those_of_the_modules(tiny_clip_config):
    """
    Both round in bfloat16, each in its own places, so that either may be closer to the exact gradient by chance.

    The logarithm of the ratio of their errors, averaged over the parameters of a model, differs from model to model by
    0.17 (standard deviation, with torch 2.6 and 2.13). Its mean over all models must be 0 up to three standard errors.
    """
    ratios = []
    for seed in range(16):
        model = new_model(tiny_clip_config).train()
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(1 + 0.5 * torch.randn_like(parameter))
        exact = Run(copy.deepcopy(model).double(), half_blocks=False, dtype=torch.float64)
        errors = {}
        for half_blocks in (True, False):
            run = Run(model, half_blocks=half_blocks, autocast=True)
            assert run.half_blocks == half_blocks * ALL_HALF_BLOCKS
            assert F.cosine_similarity(run.flat_gradient, exact.flat_gradient, dim=0) > 0.999
            errors[half_blocks] = errors_of(run, exact)
        # A model in which nothing is rounded would have no errors to compare.
        assert (errors[False] > 0).all() and errors[False].mean() > 1e-3
        ratios.append((errors[True] / errors[False]).log().mean())
    assert torch.stack(ratios).mean() <= 3 * 0.17 / len(ratios) ** 0.5


def errors_of(run, exact):
    """The relative error of the gradient of each parameter. Biases of keys have none: softmax cancels them."""
    errors = []
    for name, gradient in exact.gradients.items():
        if gradient.norm() > 1e-9:
            errors.append((run.gradients[name].double() - gradient).norm() / gradient.norm())
    return torch.stack(errors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_autocast_chooses_the_same_dtypes(model, dtype):
    # A model in one dtype, under an autocast that leaves float64 alone.
    model.to(dtype)
    runs = [Run(model, half_blocks=half_blocks, autocast=True, dtype=dtype) for half_blocks in (False, True)]
    for name, gradient in runs[0].gradients.items():
        assert runs[1].gradients[name].dtype == gradient.dtype == dtype
    cosine = F.cosine_similarity(runs[0].flat_gradient, runs[1].flat_gradient, dim=0)
    assert cosine >= (0.99 if dtype == torch.bfloat16 else 1 - 1e-12)


def test_autocast_remembers_no_weight_without_a_gradient(model):
    # The same weights in a half block and then in their modules, in one autocast.
    pooler = model.pooler
    patches = torch.randn(3, 16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        first, _ = pooler(torch.randn(3, 32), patches, torch.arange(3))
        assert count_half_blocks(first.sum()) == 1
        pooler.fc1(patches).sum().backward()
    assert pooler.fc1.weight.grad.abs().max() > 0


def half_block_inputs(activation):
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 3, 4), (4,), (4,), (6, 4), (6,), (4, 6), (4,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return tensors, fused_activation(ACT2FN[activation])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives_of_the_mlp(activation):
    tensors, operators = half_block_inputs(activation)

    def function(hidden, norm_weight, norm_bias, *parameters):
        return ResidualMLP.apply(hidden, norm_weight, norm_bias, 1e-5, DOUBLE, operators, *parameters)

    def plain(hidden, norm_weight, norm_bias, weight1, bias1, weight2, bias2):
        inner = F.linear(F.layer_norm(hidden, (4,), norm_weight, norm_bias, 1e-5), weight1, bias1)
        return hidden + F.linear(ACT2FN[activation](inner), weight2, bias2)

    torch.testing.assert_close(function(*tensors), plain(*tensors), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_first_and_second_derivatives_of_projections():
    tensors, _ = half_block_inputs("silu")
    tensors = [
        *tensors[:5],
        tensors[5].detach().T.clone().requires_grad_(),
        tensors[4].detach().clone().requires_grad_(),
    ]

    def function(hidden, norm_weight, norm_bias, *parameters):
        return NormedProjections.apply(hidden, norm_weight, norm_bias, 1e-5, DOUBLE, *parameters)

    normed = F.layer_norm(tensors[0], (4,), *tensors[1:3], 1e-5)
    first, second = function(*tensors).split([6, 6], dim=-1)
    torch.testing.assert_close(first, F.linear(normed, *tensors[3:5]), rtol=0, atol=1e-13)
    torch.testing.assert_close(second, F.linear(normed, *tensors[5:]), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_first_and_second_derivatives_of_a_residual_layer():
    generator = torch.Generator().manual_seed(4)
    shapes = [(5, 3), (5, 4), (3, 4), (3,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def function(hidden, inputs, weight, bias):
        return ResidualLinear.apply(hidden, inputs, DOUBLE, weight, bias)

    hidden, *others = tensors
    torch.testing.assert_close(function(*tensors), hidden + F.linear(*others), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("frozen", ["norm", "fc1", "q_proj", "bias", "weight", "embeddings"])
def test_what_is_frozen_gets_no_gradient(model, frozen):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    plain, half = (Run(model, half_blocks=half_blocks) for half_blocks in (False, True))
    assert half.half_blocks == ALL_HALF_BLOCKS
    assert plain.gradients.keys() == half.gradients.keys()
    assert not any(frozen in name for name in half.gradients)
    torch.testing.assert_close(half.flat_gradient, plain.flat_gradient, rtol=0, atol=1e-5)


def test_dropout_drops_the_same_values(model):
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.3
    losses = []
    for half_blocks in (False, True):
        torch.manual_seed(5)
        losses.append(Run(model, half_blocks=half_blocks).loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)
    assert abs(Run(model, half_blocks=True).loss - losses[1]) > 1e-4


class Adapter(nn.Linear):
    """A linear layer that something has been added to."""

    def forward(self, hidden):
        return super().forward(hidden) + 2 * hidden


def change(model, how):
    """Attaches something to a block of the text tower."""
    layer = model.text_model.encoder.layers[0]
    linear = layer.mlp.fc1
    if how == "hook":
        linear.register_forward_hook(lambda module, inputs, output: output * 2)
    elif how == "hook of the block":
        layer.register_forward_pre_hook(lambda module, inputs: None)
    elif how == "backward hook":
        layer.layer_norm1.register_full_backward_hook(lambda module, gradient, output_gradient: None)
    elif how == "adapter":
        layer.self_attn.v_proj = Adapter(32, 32)
    elif how == "forward":
        forward = layer.mlp.forward
        layer.mlp.forward = lambda hidden: forward(hidden) * 2
    elif how == "activation":
        layer.mlp.activation_fn = nn.Softsign()
    elif how == "no bias":
        linear.bias = None
    elif how == "checkpointing":
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda function, *args: torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False
        )


def test_an_adapter_of_the_last_layer_of_attention_alone(model):
    layer = model.text_model.encoder.layers[0]
    shapes = []
    layer.self_attn.out_proj = Adapter(32, 32)
    layer.self_attn.out_proj.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].ndim))
    half = Run(model, half_blocks=True)
    plain = Run(model, half_blocks=False)
    # Queries, keys and values do without their modules, and the adapter sees the shape that it knows.
    assert half.half_blocks == ALL_HALF_BLOCKS and shapes == [3, 3]
    torch.testing.assert_close(half.flat_gradient, plain.flat_gradient, rtol=0, atol=1e-5)


CHANGES = ("hook", "hook of the block", "backward hook", "adapter", "forward", "activation", "no bias", "checkpointing")
CHANGE_NOTHING = ("hook of the block", "backward hook", "no bias", "checkpointing")  # new biases are zeros


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_block_runs_by_its_modules_and_the_first_is_logged(model, how, caplog):
    before = Run(model, half_blocks=True).loss
    change(model, how)
    with caplog.at_level(logging.INFO):
        half, again = Run(model, half_blocks=True), Run(model, half_blocks=True)
    plain = Run(model, half_blocks=False)
    # The other blocks are as they were, and mostly the other half of this one.
    by_modules = 2 if how in ("hook of the block", "checkpointing") else 1
    assert half.half_blocks == again.half_blocks == ALL_HALF_BLOCKS - by_modules
    torch.testing.assert_close(half.flat_gradient, plain.flat_gradient, rtol=0, atol=1e-5)
    assert (abs(plain.loss - before) > 1e-6) == (how not in CHANGE_NOTHING)
    (record,) = [record for record in caplog.records if "half_blocks" in record.name]
    assert record.getMessage().startswith("blocks run by their own modules, ")
    assert record.levelno == (logging.INFO if how == "checkpointing" else logging.WARNING)


def test_hooks_of_all_modules_fire(model):
    called = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module))
    try:
        assert Run(model, half_blocks=True).half_blocks == 0
    finally:
        handle.remove()
    assert model.vision_model.encoder.layers[0].mlp.fc1 in called and model.pooler.fc1 in called
    assert Run(model, half_blocks=True).half_blocks == ALL_HALF_BLOCKS


def test_parameters_of_another_kind_run_by_their_modules(model):
    parameters = {name: parameter.detach() * 2 for name, parameter in model.named_parameters()}

    batch = planned(flat_batch(), model)

    def sum_of(parameters):
        return torch.func.functional_call(model, parameters, (), batch).contextualized_embeds[:, :3].sum()

    gradients = torch.func.grad(sum_of)(parameters)
    model.load_state_dict(parameters, strict=False)
    result = model(**batch).contextualized_embeds[:, :3].sum()
    assert count_half_blocks(result) == ALL_HALF_BLOCKS
    result.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="torch.compile of torch 2.6 breaks at transformers' decorators"
)
def test_a_training_step_is_one_compiled_graph(model):
    batch = planned(flat_batch(), model) | {"return_loss": True}
    expected = Run(model, half_blocks=True)
    model.zero_grad()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch).loss
    loss.backward()
    assert expected.half_blocks == ALL_HALF_BLOCKS and count_half_blocks(loss) == 0
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=0, atol=1e-5, msg=name)


def test_inference_and_steps_without_gradients_run_by_the_modules(model):
    with torch.no_grad():
        kept = model(**flat_batch(), return_loss=True).loss
    assert kept.grad_fn is None
    model.eval()
    assert Run(model, half_blocks=True).half_blocks == 0


def test_the_switch_is_the_models_and_its_poolers(model):
    assert model.half_blocks and model.pooler.block_runner is model.block_runner
    twin = copy.deepcopy(model)
    twin.half_blocks = False
    assert model.half_blocks and not twin.half_blocks
    assert Run(twin, half_blocks=False).half_blocks == 0
    assert twin.pooler.block_runner is twin.block_runner is not model.block_runner


def test_quick_gelu_keeps_one_tensor_and_differs_by_rounding():
    values = torch.linspace(-30, 30, 2001, dtype=torch.float64)
    kept = {}
    results = {}
    for name, module in {"fused": FusedQuickGELU(), "transformers": QuickGELUActivation()}.items():
        saved = []
        leaf = values.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.shape) or t, lambda t: t):
            output = module(leaf)
        output.sum().backward()
        kept[name] = saved.count(values.shape)
        results[name] = torch.cat([output.detach(), leaf.grad])
    assert kept["fused"] == 1 < kept["transformers"]
    torch.testing.assert_close(results["fused"], results["transformers"], rtol=1e-13, atol=1e-15)
    assert torch.equal(FusedQuickGELU().eval()(values), QuickGELUActivation()(values))


def test_only_quick_gelu_is_fused_in_place(model):
    for name in ACTIVATIONS:
        module = ACT2FN[name]
        kind = type(module)
        assert fuse_in_training(module) is module
        assert type(module) is (FusedQuickGELU if name == "quick_gelu" else kind)
    kinds = {type(layer.mlp.activation_fn) for layer in model.text_model.encoder.layers}
    assert kinds | {type(model.pooler.activation)} == {FusedQuickGELU}


def test_the_mask_of_packed_texts_has_the_dtype_of_autocast(model):
    masks = []
    attention = model.text_model.encoder.layers[0].self_attn
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    for autocast in (False, True):
        Run(model, half_blocks=True, autocast=autocast)
    assert [mask.dtype for mask in masks] == [torch.float32, torch.bfloat16]
    assert all(mask.isfinite().all() for mask in masks)
    assert torch.equal(masks[0] == 0, masks[1] == 0)
