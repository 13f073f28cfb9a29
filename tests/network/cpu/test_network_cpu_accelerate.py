"""Quicker layers: the same values, names and memory, for any network; and torch's own again."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from segflow.core.topology import NetworkTopology
from segflow.network.blocks import ConvBlock, ResidualBlock
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate, order_weights, to_torch_layers
from segflow.network.cpu.instance_norm import instance_norm
from segflow.network.cpu.winograd import winograd_convolution
from segflow.network.memory_format import channels_last

NETWORKS = [(network, dims) for network in ("plain_unet", "residual_unet") for dims in (2, 3)]
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def topology(network: str = "plain_unet", dims: int = 3, norm: str = "instance", width: int = 4) -> NetworkTopology:
    kernels, strides = ((3,) * dims,) * 3, ((1,) * dims, (2,) * dims, (2,) * dims)
    return NetworkTopology(network, (width, 2 * width, 2 * width), kernels, strides, (1, 2, 2), (1, 1), norm=norm)


def wide_network(network: str = "plain_unet", **options: str) -> nn.Module:
    """In three dimensions, and wide enough for the quick convolution."""
    torch.manual_seed(0)
    return build_network(topology(network, width=32), 1, 2, **options)


def wide_image() -> Tensor:
    return torch.randn(1, 1, 16, 16, 20, generator=torch.Generator().manual_seed(1))


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in network.modules()]


def own_functions(*outputs: Tensor) -> set[str]:
    """Names of the autograd functions, not torch's, that made these."""
    found, seen = set(), set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__)
        waiting += [following for following, _ in node.next_functions]
    return found


def step(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Logits, and the gradients of their squares."""
    network.zero_grad()
    logits = network(image)
    sum(one.square().mean() for one in logits).backward()
    return [*logits, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    """All together: of a bias before a norm, the gradient is nothing but rounding."""
    scale = max(other.abs().max().item() for other in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_parameters_and_names_stay_and_torchs_layers_come_back(network: str, dims: int, norm: str) -> None:
    built = build_network(topology(network, dims, norm), 2, 3)
    before, names = kinds(built), list(built.state_dict())
    assert {module.__module__.split(".")[0] for module in before} == {"torch", "segflow"}
    parameters = dict(built.named_parameters())
    assert accelerate(built) is built
    quick = kinds(built)
    assert quick != before
    assert kinds(accelerate(built)) == quick
    assert list(built.state_dict()) == names
    assert all(built.get_parameter(name) is value for name, value in parameters.items())
    assert to_torch_layers(built) is built
    assert kinds(built) == before
    assert kinds(to_torch_layers(built)) == before


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_logits_and_gradients_are_those_of_torch(network: str, dims: int, norm: str) -> None:
    built = build_network(topology(network, dims, norm), 2, 3)
    image = torch.randn(2, 2, *(16,) * dims)
    expected = step(built, image)
    assert_near(step(accelerate(built), image), expected)
    assert_near(step(to_torch_layers(built), image), expected)


@pytest.mark.parametrize("network", ["plain_unet", "residual_unet"])
def test_wide_volumes_too_with_the_quick_convolution(network: str) -> None:
    built, image = wide_network(network), wide_image()
    expected = step(built, image)
    assert_near(step(accelerate(built), image), expected)
    assert own_functions(*built(image)) == {"_WinogradConvolutionBackward", "_InstanceNormLeakyReLUBackward"}


def test_a_block_is_its_quick_functions_to_the_bit() -> None:
    torch.manual_seed(0)
    block = ConvBlock(topology(width=32), 32, 64, (3, 3, 3))
    x = torch.randn(2, 32, 8, 12, 16).contiguous(memory_format=torch.channels_last_3d)
    expected = instance_norm(
        winograd_convolution(x, block.conv.weight, block.conv.bias), block.norm.weight, block.norm.bias, 1e-5, 0.01
    )
    assert torch.equal(accelerate(block)(x), expected)


def test_a_residual_block_is_its_quick_functions_to_the_bit() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(topology("residual_unet"), 8, 16, (3, 3, 3), (2, 2, 2))
    for module in (block.conv1, block.conv2, block.shortcut):
        nn.init.normal_(module.norm.weight, 1.0)
    x = torch.randn(2, 8, 8, 12, 16).contiguous(memory_format=torch.channels_last_3d)

    def normed(part: ConvBlock, y: Tensor, slope: float) -> Tensor:
        y = part.conv(y).contiguous(memory_format=torch.channels_last_3d)
        return instance_norm(y, part.norm.weight, part.norm.bias, 1e-5, slope)

    main = normed(block.conv2, normed(block.conv1, x, 0.01), 1.0)
    pooled = functional.avg_pool3d(x, 2).contiguous(memory_format=torch.channels_last_3d)
    expected = functional.leaky_relu(main + normed(block.shortcut, pooled, 1.0), 0.01)
    assert torch.equal(accelerate(block)(x), expected)


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_features_stay_in_channels_last_memory(network: str, dims: int, channels: int, batch: int) -> None:
    built = accelerate(build_network(topology(network, dims), channels, 2))
    others = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.is_contiguous(memory_format=FORMATS[dims]):
            others.append(str(module))

    for module in built.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | ConvBlock):
            module.register_forward_hook(look)
    built(torch.randn(batch, channels, *(16,) * dims))
    assert not others


@pytest.mark.parametrize("channels", [1, 2])
def test_the_networks_memory_format_is_kept_to(channels: int) -> None:
    image = torch.randn(2, channels, 16, 16, 16)
    for option, expected in (("auto", True), ("channels_last", True), ("contiguous", False)):
        built = accelerate(build_network(topology(), channels, 2, memory_format=option))
        found = []
        built.encoder.stages[1].register_forward_hook(lambda module, inputs, output, found=found: found.append(output))
        built(image)
        assert found[0].is_contiguous(memory_format=torch.channels_last_3d) is expected, option


def test_it_is_copied_with_its_quick_layers() -> None:
    built, image = accelerate(wide_network()), wide_image()
    copied = copy.deepcopy(built)
    assert kinds(copied) == kinds(built)
    assert torch.equal(copied(image)[0], built(image)[0])


def in_bfloat16() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("surroundings", [in_bfloat16, nullcontext], ids=["autocast", "double"])
def test_other_types_get_torchs_own_arithmetic(surroundings: Callable[[], AbstractContextManager[object]]) -> None:
    built, image = wide_network(), wide_image()
    if surroundings is nullcontext:
        built, image = built.double(), image.double()
    with surroundings():
        expected = built(image)
        found = accelerate(built)(image)
    assert not own_functions(*found)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_plain_network_holds_no_function_of_ours() -> None:
    built, image = to_torch_layers(accelerate(wide_network())), wide_image()
    assert not own_functions(*built(image))


@pytest.mark.parametrize("quick", [False, True])
def test_a_trace_holds_torchs_operators_only(quick: bool) -> None:
    built, image = wide_network(), wide_image()
    expected = built(image)
    if quick:
        accelerate(built)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a patch whose shape is checked, and of tracing's age
        traced = torch.jit.trace(built, image, check_trace=False)
        torch.jit.save(traced, file := io.BytesIO())
        found = torch.jit.load(io.BytesIO(file.getvalue()))(image)
    operators = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::_convolution" in operators
    assert "aten::instance_norm" in operators
    assert all(kind.startswith(("aten::", "prim::")) and kind != "prim::PythonOp" for kind in operators)
    assert_near(found, expected)


@pytest.mark.parametrize("quick", [False, True])
def test_an_exported_program_holds_torchs_operators_only(quick: bool) -> None:
    built, image = wide_network().eval(), wide_image()
    expected = built(image)
    if quick:
        accelerate(built)
    exported = torch.export.export(built, (image,))
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert "aten.instance_norm.default" in targets
    assert all(target.startswith(("aten.", "<built-in")) for target in targets)
    assert_near(exported.module()(image), expected)


def test_a_compiled_network_is_left_alone() -> None:
    built = wide_network()
    before = kinds(built)
    built.compile()
    assert kinds(accelerate(built)) == before
    around = nn.Sequential(built, nn.Conv3d(2, 2, 1))
    assert kinds(accelerate(around))[1:-1] == before


# Networks of one's own ------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Shares one activation, adds in place, and looks at its features as a table, which wants contiguous memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.1))
        self.second = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True))
        self.activation = nn.LeakyReLU(0.01, inplace=True)
        self.third = nn.Sequential(nn.InstanceNorm3d(8, affine=True), self.activation)
        self.weight = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        first += 1
        y = self.third(self.activation(self.second(first) + first))
        table = y.view(*y.shape[:2], -1)
        return self.weight(table.transpose(1, 2)).transpose(1, 2).reshape(len(x), 2, *x.shape[2:])


class Doubling(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Upsampling(nn.Module):
    """Asks its transposed convolution for a size."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(1, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x, output_size=[2 * n for n in x.shape[2:]])


def own_networks() -> Iterator[tuple[str, nn.Module]]:
    yield "residual", Residual()
    yield "subclass", nn.Sequential(Doubling(1, 32, 3, padding=1), nn.InstanceNorm3d(32))
    yield "without scale", nn.Sequential(nn.InstanceNorm3d(1), nn.LeakyReLU(0.2, inplace=True))
    yield (
        "running statistics",
        nn.Sequential(nn.InstanceNorm3d(1, affine=True, track_running_stats=True), nn.LeakyReLU(0.1, inplace=True)),
    )
    yield "flat slope", nn.Sequential(nn.InstanceNorm3d(1, affine=True), nn.LeakyReLU(0.0, inplace=True))
    yield "steep slope", nn.Sequential(nn.InstanceNorm3d(1, affine=True), nn.LeakyReLU(1.5, inplace=True))
    yield "changed in place", nn.Sequential(nn.InstanceNorm3d(1, affine=True), nn.ReLU(inplace=True))
    yield "upsampling", Upsampling()
    wide = [nn.Conv3d(1, 32, 3, padding=1), nn.ReLU(inplace=True)]
    for name, options in {
        "circular": {"padding": 1, "padding_mode": "circular"},
        "groups": {"padding": 1, "groups": 2},
        "dilated": {"padding": 2, "dilation": 2},
        "unpadded": {},
        "strided": {"padding": 1, "stride": 2},
        "same": {"padding": "same"},
        "valid": {"padding": "valid"},
    }.items():
        yield name, nn.Sequential(*copy.deepcopy(wide), nn.Conv3d(32, 64, 3, **options), nn.ReLU(inplace=True))
    yield (
        "parametrized",
        nn.Sequential(
            parametrizations.weight_norm(nn.Conv3d(1, 32, 3, padding=1)),
            parametrizations.weight_norm(nn.Conv3d(32, 32, 3, padding=1)),
        ),
    )
    yield "slices", nn.Sequential(*copy.deepcopy(wide), nn.InstanceNorm3d(32, affine=True), nn.LeakyReLU(0.1, True))[2:]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("name", [name for name, _ in own_networks()])
def test_a_network_of_ones_own_gives_what_it_gave(name: str, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    own = dict(own_networks())[name]
    channels = 32 if name == "slices" else 1
    image = torch.randn(2, channels, 8, 16, 12).contiguous(memory_format=memory_format)
    if name == "residual" and memory_format is torch.channels_last_3d:
        image = image.contiguous()  # it cannot run in the other

    def run(network: nn.Module) -> list[Tensor]:
        x = image.clone(memory_format=torch.preserve_format).requires_grad_()
        y = network(x)
        trained = [p for p in network.parameters() if p.requires_grad]
        return [y, *torch.autograd.grad(y.square().mean(), [x, *trained])]

    before = kinds(own)
    expected = run(own)
    accelerated = accelerate(copy.deepcopy(own))
    found = run(accelerated)
    assert_near(found, expected)
    if memory_format is torch.contiguous_format:
        assert found[0].stride() == expected[0].stride()
    assert list(accelerated.state_dict()) == list(own.state_dict())
    assert kinds(to_torch_layers(accelerated)) == before


def test_hooks_between_norm_and_activation_see_what_they_saw() -> None:
    own = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.LeakyReLU(0.1, inplace=False))
    seen: list[Tensor] = []
    own[0].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    x = torch.randn(2, 3, 6, 5)
    own(x)
    accelerate(own)(x)
    torch.testing.assert_close(seen[1], seen[0])


def test_single_images_and_empty_batches_are_torchs_matter() -> None:
    own = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(0.1, True))
    image = torch.randn(2, 6, 5, 4)
    expected = own(image)
    assert torch.equal(accelerate(own)(image), expected)
    conv = accelerate(nn.Conv3d(2, 4, 3, padding=1))
    assert conv(torch.zeros(0, 2, 6, 5, 4)).shape == (0, 4, 6, 5, 4)
    with pytest.raises(ValueError, match="num_features"):
        own[1](torch.randn(1, 3, 6, 5, 4))


@pytest.mark.parametrize(
    "layer",
    [nn.Conv3d(1, 2, 3), nn.Sequential(nn.Conv3d(1, 2, 3)), nn.InstanceNorm3d(1, affine=True), nn.AvgPool3d(2)],
    ids=lambda layer: type(layer).__name__,
)
def test_the_input_may_be_named_as_torch_names_it(layer: nn.Module) -> None:
    x = torch.randn(1, 1, 6, 6, 6)
    expected = layer(input=x)
    torch.testing.assert_close(accelerate(layer)(input=x), expected)


def test_a_forward_that_was_put_on_a_layer_stays() -> None:
    layer = nn.Conv3d(1, 1, 1)
    layer.forward = lambda x: x + 1
    assert torch.equal(accelerate(nn.Sequential(layer))(torch.zeros(1, 1, 2, 2, 2)), torch.ones(1, 1, 2, 2, 2))


def test_a_network_around_ours_gains_as_well() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wide_network()

        def forward(self, image: Tensor) -> list[Tensor]:
            return self.inner(image)

    assert "_WinogradConvolutionBackward" in own_functions(*accelerate(Around())(wide_image()))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
@pytest.mark.parametrize("kernel", [3, (1, 3, 3)])
def test_a_single_volume_is_convolved_by_onednn_where_torch_would_not(
    channels: int, stride: int | tuple[int, ...], kernel: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    padding = 1 if kernel == 3 else (0, 1, 1)
    exact = nn.Conv3d(channels, 8, kernel, stride, padding).double()
    quick = accelerate(copy.deepcopy(exact).float())
    image = channels_last(torch.randn(1, channels, 11, 12, 13))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        found = quick(image)
    assert not any("slow_conv3d" in event.name for event in profiled.events())
    assert found.is_contiguous(memory_format=FORMATS[3])
    expected = exact(image.double())
    for result in (found, expected):
        result.square().sum().backward()
    gradients = [[p.grad.double() for p in layer.parameters() if p.grad is not None] for layer in (quick, exact)]
    assert_near([found.double(), *gradients[0]], [expected, *gradients[1]])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(quick(image).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
def test_ordered_weights_are_the_same_weights(network: str, dims: int) -> None:
    torch.manual_seed(0)
    built = accelerate(build_network(topology(network, dims, width=32), 2, 3, deep_supervision=False))
    ordered = order_weights(copy.deepcopy(built))
    kernels = [m.weight for m in ordered.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)) and max(m.kernel_size) > 1]
    assert all(kernel.is_contiguous(memory_format=FORMATS[dims]) for kernel in kernels)
    for (name, value), (other, same) in zip(built.state_dict().items(), ordered.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, same)
    image = torch.randn(1, 2, *(24,) * dims)
    with torch.inference_mode():
        torch.testing.assert_close(ordered(image), built(image), rtol=0, atol=1e-5)
