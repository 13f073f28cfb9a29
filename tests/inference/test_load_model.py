"""A loaded network has the weights of its file, and no others."""

from __future__ import annotations

from pathlib import Path

import tiny_models
import torch

from segflow.inference.load_model import load_model
from segflow.models.open_model import open_model


def test_weights_are_those_of_the_file_and_none_are_drawn(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, "3d_fullres")
    before = torch.get_rng_state()
    loaded = load_model(run)
    assert torch.equal(before, torch.get_rng_state())
    for network, fold in zip(loaded.networks, open_model(run).read("all"), strict=True):
        found = network.state_dict()
        assert found.keys() == fold.weights.keys()
        assert all(torch.equal(found[name], fold.weights[name]) for name in found)
