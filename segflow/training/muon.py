"""The optimizer Muon: momentum whose kernels are made orthogonal (Jordan et al. 2024, arXiv 2502.16982)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from segflow.core.errors import SegflowError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic polynomial, which moves singular values between 0 and 1 to about 0.7 to 1.2."""
ROUNDS = 5
ADAMW_RMS = 0.2
"""Root mean square of the elements of a usual step of AdamW, in learning rates (arXiv 2502.16982)."""


class Muon(Optimizer):
    """Muon for the hidden kernels of a network, and AdamW for the rest, with one learning rate.

    The momentum of a kernel, as a matrix of (outputs, inputs times voxels of the kernel), is moved to the nearest one
    with equal singular values: all directions of a kernel learn at the same speed. The step is scaled by
    ``0.2 sqrt(max(rows, columns))``, so that it is as large as one of AdamW, and rate and weight decay fit both.

    AdamW trains what is no such kernel: first layers, heads, depthwise kernels, norms, biases, embeddings.

    Args:
        params: Parameters, or groups of them.
        network: The network that they belong to. It tells which are hidden kernels.
        lr: Learning rate.
        momentum: Share of the last step that is taken again.
        nesterov: Whether the gradient is taken where momentum leads.
        weight_decay: Share of a weight, times the rate, that is taken away in each step.
        betas, eps: Of AdamW.
        block_rows: Kernels with more outputs are made orthogonal in blocks of so many outputs, each for itself. With n
            blocks it takes about 1/n of the time. None takes each kernel as a whole, as published.
    """

    def __init__(
        self,
        params: Iterable[Any],
        network: nn.Module,
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        block_rows: int | None = None,
    ) -> None:
        shares = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise SegflowError(f"optimizer.{name} must lie between 0 and 1", found=value)
        if lr < 0 or weight_decay < 0 or eps <= 0:
            raise SegflowError(
                "optimizer: lr and weight_decay must not be negative, and eps must be above 0",
                found=f"lr {lr}, weight_decay {weight_decay}, eps {eps}",
            )
        if block_rows is not None and block_rows < 1:
            raise SegflowError("optimizer.block_rows must be at least 1, or null for whole kernels", found=block_rows)
        self._hidden = {id(kernel) for kernel in hidden_kernels(network)}
        own = {"momentum": momentum, "nesterov": nesterov, "betas": tuple(betas), "eps": eps, "block_rows": block_rows}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            hidden = [parameter for parameter in with_gradient if id(parameter) in self._hidden]
            self._step_of_muon(hidden, group)
            self._step_of_adamw([other for other in with_gradient if id(other) not in self._hidden], group)
        return loss

    def _step_of_muon(self, kernels: list[Tensor], group: dict[str, Any]) -> None:
        kept = 1.0 - group["lr"] * group["weight_decay"]
        for kernel in kernels:
            if not self.state[kernel]:
                self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
            rows = group["block_rows"] or len(kernel)
            parts = (kernel, kernel.grad, self.state[kernel]["momentum_buffer"])
            # All work on a block is done before the next one is read, so that it stays in a CPU's cache.
            for weights, gradient, buffer in zip(
                *(part.split(rows) for part in parts if part is not None), strict=True
            ):
                buffer.lerp_(gradient, 1.0 - group["momentum"])
                step = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
                matrix = step.reshape(len(step), -1)
                scale = ADAMW_RMS * max(matrix.shape) ** 0.5
                weights.mul_(kept).add_(orthogonal(matrix).view(step.shape), alpha=-group["lr"] * scale)

    def _step_of_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter].update(zeros, step=torch.tensor(0.0))
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of the given one and singular values near 1, by Newton–Schulz rounds.

    The rounds go over the small square matrix of products of rows. Most kernels have many more columns than rows, and
    for these it costs a fraction of rounds over the kernel itself, and gives the same.

    Args:
        matrix: (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).float()
    a, b, c = COEFFICIENTS
    products: Tensor = wide @ wide.T
    length = products.trace().sqrt().clamp(min=1e-7)
    products = products / length**2
    factor: Tensor | None = None
    for round_ in range(ROUNDS):
        polynomial = torch.addmm(products, products, products, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        factor = polynomial / length if factor is None else polynomial @ factor
        if round_ < ROUNDS - 1:
            products = polynomial @ (polynomial @ products)
    result: Tensor = wide if factor is None else factor @ wide
    return (result.T if tall else result).to(matrix.dtype)


def hidden_kernels(network: nn.Module) -> list[Tensor]:
    """Kernels (outputs, inputs, *kernel) of the layers between the first one and the heads.

    A head is a layer with as many outputs as the network's last layer. Depthwise kernels, each of which sees one
    channel, are no matrices and left out.
    """
    layers = [module for module in network.modules() if isinstance(module, _ConvNd | nn.Linear)]
    if not layers:
        return []
    outputs = _outputs(layers[-1])
    return [layer.weight for layer in layers[1:] if _outputs(layer) != outputs and getattr(layer, "groups", 1) == 1]


def _outputs(layer: nn.Module) -> int:
    found: int = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels  # type: ignore[assignment]
    return found
