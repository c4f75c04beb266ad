"""The passes written by hand: every gradient, what they allocate and keep, and what stays with plain operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polarpix.bench.counting import peak_memory
from polarpix.psa import PolarizedSelfAttention, collapsed, passes, reference
from polarpix.psa.block import _weights

FUNCTIONS = [
    ("paper", "parallel", "both"),
    ("paper", "sequential", "both"),
    ("paper", "parallel", "channel"),
    ("paper", "parallel", "spatial"),
    ("released", "parallel", "both"),
    ("released", "parallel", "channel"),
    ("released", "parallel", "spatial"),
    ("released", "sequential", "both"),
    ("released", "sequential", "channel"),
    ("released", "sequential", "spatial"),
]
# The spatial gate of the released sequential form has h rows of pixels at work, one sample after another.
COLLAPSING = [one for one in FUNCTIONS if one[:2] != ("released", "sequential") or one[2] == "channel"]
MEMORY = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "window": lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1))[:, :, : x.shape[2], 1 : 1 + x.shape[3]],
    "half_the_channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "transposed": lambda x: x.mT.contiguous().mT,
}
SHAPE = (2, 16, 5, 7)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def problem(form, layout, branches="both", channels=16, dtype=torch.float64):
    """(form, layout, the weights of the channel branch, of the spatial branch), all random."""
    block = PolarizedSelfAttention(channels, layout, form, branches=branches, init="torch").to(dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return form, layout, _weights(block.channel), _weights(block.spatial)


def parameters(problem):
    return [W for weights in problem[2:] for W in (weights or {}).values()]


def by_reference(x, form, layout, channel, spatial, scale=1.0):
    return reference.apply_gates(x, *reference.gates(x, form, layout, channel, spatial), layout, scale)


def by_collapsed(x, form, layout, channel, spatial, scale=1.0):
    return collapsed.apply_gates(x, *collapsed.gates(x, form, layout, channel, spatial), layout, scale)


def assert_all_close(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_gives_the_values_and_gradients_of_the_reference(form, layout, branches, memory, scale):
    task = problem(form, layout, branches)
    x = MEMORY[memory](torch.randn(SHAPE, dtype=torch.float64)).detach().requires_grad_()
    inputs = [x, *parameters(task)]
    expected, out = by_reference(x, *task, scale), passes.attend(x, *task, scale)
    assert "_Write" in type(out.grad_fn).__name__
    last = x.is_contiguous(memory_format=torch.channels_last)
    assert out.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for d in (torch.randn(SHAPE), torch.randn(SHAPE).contiguous(memory_format=torch.channels_last), torch.ones(1)):
        d = d.double().expand(SHAPE)
        wanted = torch.autograd.grad(expected, inputs, d, retain_graph=True)
        assert_all_close(torch.autograd.grad(out, inputs, d, retain_graph=True), wanted)


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_gradients_by_finite_differences(form, layout, branches):
    form, layout, channel, spatial = problem(form, layout, branches)
    names = [*(channel or {})], [*(spatial or {})]
    x = torch.randn(2, 16, 2, 3, dtype=torch.float64, requires_grad=True)

    def function(x, *weights):
        split = len(names[0])
        parts = zip(names, (weights[:split], weights[split:]), strict=True)
        taken = [dict(zip(keys, part, strict=True)) for keys, part in parts]
        return passes.attend(x, form, layout, taken[0] or None, taken[1] or None, 2.0)

    weights = [W.detach().requires_grad_() for W in parameters((form, layout, channel, spatial))]
    assert torch.autograd.gradcheck(function, (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, *weights), fast_mode=True)


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_a_penalty_on_the_gradient_trains(form, layout, branches):
    """Second derivatives are those of the reference, of x and of every weight."""
    task = problem(form, layout, branches)
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    inputs = [x, *parameters(task)]
    results = []
    for attend in (by_reference, passes.attend):
        (dx,) = torch.autograd.grad(attend(x, *task).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), inputs, allow_unused=True, materialize_grads=True))
    assert_all_close(results[1], results[0])


@pytest.mark.parametrize("wanted", ["x", "weights", "W_q", "rest"])
@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_gives_only_the_gradients_that_are_asked_for(form, layout, branches, wanted):
    task = problem(form, layout, branches)
    x = torch.randn(SHAPE, dtype=torch.float64)
    for tensor in (x, *parameters(task)):
        tensor.requires_grad_(False)
    names = [name for weights in task[2:] for name in (weights or {})]
    chosen = {
        "x": [x],
        "weights": parameters(task),
        "W_q": [W for W, name in zip(parameters(task), names, strict=True) if name == "W_q"],
        "rest": [x, *(W for W, name in zip(parameters(task), names, strict=True) if name != "W_q")],
    }[wanted]
    for tensor in chosen:
        tensor.requires_grad_()
    d = torch.randn(SHAPE, dtype=torch.float64)
    expected = torch.autograd.grad(by_reference(x, *task, 2.0), chosen, d)
    assert_all_close(torch.autograd.grad(passes.attend(x, *task, 2.0), chosen, d), expected)


class Maps(TorchDispatchMode):
    """Counts the storages of half a map or more that operations allocate."""

    def __init__(self, x):
        super().__init__()
        self.least = x.nbytes // 2
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = self.storages((args, kwargs))
        out = function(*args, **(kwargs or {}))
        self.count += sum(size >= self.least for at, size in self.storages(out).items() if at not in before)
        return out

    @staticmethod
    def storages(tree):
        tensors = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return {storage.data_ptr(): storage.nbytes() for storage in tensors}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("form", "layout", "branches"), COLLAPSING)
def test_allocates_one_map_forward_and_one_backward(form, layout, branches, memory, dtype):
    task = problem(form, layout, branches, dtype=dtype)
    x = MEMORY[memory](torch.randn(2, 16, 20, 20).to(dtype)).requires_grad_()
    d = torch.randn_like(x)
    with Maps(x) as plain:
        torch.autograd.grad(by_collapsed(x, *task, 2.0), x, d)
    assert plain.count > 4
    with Maps(x) as forward, torch.no_grad():
        passes.attend(x, *task, 2.0)
    assert forward.count == 1
    with Maps(x) as forward:
        out = passes.attend(x, *task, 2.0)
    assert forward.count == 1
    with Maps(x) as backward:
        torch.autograd.grad(out, [x, *parameters(task)], d)
    assert backward.count == 1


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(("layout", "form"), [("parallel", "paper"), ("sequential", "released")])
def test_takes_at_most_one_map_beside_its_results(layout, form, batch):
    task = problem(form, layout, channels=64)
    x = torch.randn(batch, 64, 60, 61, requires_grad=True)
    d = torch.randn_like(x)

    def step():
        return torch.autograd.grad(passes.attend(x, *task), x, d)

    assert peak_memory(step, x.device) < 3 * x.nbytes


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_keeps_nothing_of_the_size_of_the_map_but_the_map(form, layout, branches):
    task = problem(form, layout, branches)
    x = torch.randn(2, 16, 20, 20, dtype=torch.float64, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = passes.attend(x, *task)
    assert kept.pop(x.untyped_storage().data_ptr()) == x.nbytes
    for W in parameters(task):
        kept.pop(W.untyped_storage().data_ptr(), None)
    rows = 3 * 2 * 20 * 20  # the pixel weights, the spatial gate and the softmax in it
    vectors = 20 * 2 * 16
    assert sum(kept.values()) <= (rows + vectors) * x.element_size() < x.nbytes
    out.sum().backward()


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_the_result_may_be_changed_in_place_and_the_input_used_again(form, layout, branches):
    """As residual networks do; and a graph that is kept gives the same gradient twice."""
    task = problem(form, layout, branches)
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    y = passes.attend(x, *task)
    y += x
    y.relu_()
    expected = torch.autograd.grad((by_reference(x, *task) + x).relu().square().sum(), x)
    loss = y.square().sum()
    for _ in range(2):
        assert_all_close(torch.autograd.grad(loss, x, retain_graph=True), expected)


def test_a_map_changed_in_place_before_the_backward_is_noticed():
    task = problem("paper", "parallel")
    leaf = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    x = leaf * 1
    out = passes.attend(x, *task)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_no_sample_gives_no_sample_and_zero_gradients(form, layout, branches, dtype):
    task = problem(form, layout, branches, dtype=dtype)
    x = torch.randn(0, 16, 5, 7, dtype=dtype, requires_grad=True)
    out = passes.attend(x, *task)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert not any(W.grad.any() for W in parameters(task))


@pytest.mark.parametrize(("form", "layout", "branches"), FUNCTIONS)
def test_recording_a_gradient_does_not_change_the_result(form, layout, branches):
    task = problem(form, layout, branches, dtype=torch.float32)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        silent = passes.attend(x, *task, 2.0)
    assert silent.grad_fn is None
    assert torch.equal(passes.attend(x.requires_grad_(), *task, 2.0), silent)


@pytest.mark.parametrize(("form", "layout"), [("paper", "parallel"), ("released", "sequential")])
def test_function_transforms_and_traces_see_plain_operations(form, layout):
    task = problem(form, layout)
    x, v = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    for W in parameters(task):
        W.requires_grad_(False)

    def function(x):
        return passes.attend(x, *task, 2.0)

    expected = by_reference(x, *task, 2.0)
    _, tangent = torch.func.jvp(lambda x: by_reference(x, *task, 2.0), (x,), (v,))
    torch.testing.assert_close(torch.func.jvp(function, (x,), (v,)), (expected, tangent))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.unpack_dual(function(torch.autograd.forward_ad.make_dual(x, v)))
    torch.testing.assert_close(dual.tangent, tangent)
    torch.testing.assert_close(torch.func.vmap(function)(x[:, None])[:, 0], expected)
    torch.testing.assert_close(
        torch.func.grad(lambda x: function(x).square().sum())(x),
        torch.func.grad(lambda x: by_reference(x, *task, 2.0).square().sum())(x),
    )
    traced = torch.jit.trace(function, (x,))
    assert "mse_loss" not in str(traced.graph)
    torch.testing.assert_close(traced(torch.cat([x, x])), torch.cat([expected, expected]))


@pytest.mark.parametrize("memory", MEMORY)
def test_all_samples_at_once_give_the_same(memory, monkeypatch):
    """As on a GPU."""
    task = problem("released", "sequential")
    x = MEMORY[memory](torch.randn(SHAPE, dtype=torch.float64)).detach().requires_grad_()
    monkeypatch.setattr(passes, "_shares", lambda W: [(slice(None), slice(None))])
    expected, out = by_reference(x, *task), passes.attend(x, *task)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    inputs, d = [x, *parameters(task)], torch.randn(SHAPE, dtype=torch.float64)
    assert_all_close(torch.autograd.grad(out, inputs, d), torch.autograd.grad(expected, inputs, d))
