"""Batch Dice over several processes equals batch Dice of the whole batch in one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, multiprocessing

from segflow.core.labels import Labels
from segflow.loss.compound import DiceCrossEntropy

LABELS = {"background": 0, "a": 1, "b": 2}


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 4, 4, generator=generator), torch.randint(0, 3, (4, 1, 4, 4), generator=generator)


def _one_rank(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, target = (part[2 * rank : 2 * rank + 2] for part in _batch())
    leaf = logits.clone().requires_grad_()
    loss = DiceCrossEntropy(Labels.from_json(LABELS), True)(leaf, target)
    loss.backward()
    torch.save((loss.detach(), leaf.grad), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(_one_rank, (str(tmp_path),), nprocs=2)
    losses, grads = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)), strict=True)
    logits, target = _batch()
    leaf = logits.requires_grad_()
    whole = DiceCrossEntropy(Labels.from_json(LABELS), True)(leaf, target)
    whole.backward()
    # Distributed training averages loss and gradients over the ranks.
    torch.testing.assert_close(torch.stack(losses).mean(), whole.detach())
    torch.testing.assert_close(torch.cat(grads) / 2, leaf.grad)
