"""Starting from another run's weights, training only a part, and training parts at different rates."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_toy import PowerCut, Toy, make_record, make_store

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.exchange.export_model import export_bundle, export_nnunet_model
from segflow.network.build import build_network
from segflow.training.initial_weights import read_initial_weights, transfer_weights
from segflow.training.parameters import freeze, parameter_groups


def make_network(channels: int = 1, outputs: int = 3) -> torch.nn.Module:
    return build_network(make_record().plan.topology, channels, outputs)


def test_equal_networks_copy_everything():
    source, target = make_network(), make_network()
    report = transfer_weights(target, source.state_dict(), "source")
    assert not report.skipped
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_other_labels_keep_fresh_heads_and_are_listed(caplog: pytest.LogCaptureFixture):
    source, target = make_network(outputs=3), make_network(outputs=5)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        report = transfer_weights(target, source.state_dict(), "source")
    heads = [name for name in fresh if name.startswith("heads.")]
    assert [line.split(":")[0] for line in report.skipped] == heads
    assert all(torch.equal(target.state_dict()[name], fresh[name]) for name in heads)
    assert all(name in caplog.text for name in heads)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 1)])
def test_other_input_channels_answer_equal_channels_alike(before: int, after: int):
    source, target = make_network(channels=before), make_network(channels=after)
    report = transfer_weights(target, source.state_dict(), "source")
    assert len(report.adapted) == 1
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        one = source(image.expand(-1, before, -1, -1, -1))[0]
        other = target(image.expand(-1, after, -1, -1, -1))[0]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_cascade_with_other_labels_is_refused():
    source, target = make_network(channels=3), make_network(channels=4)
    with pytest.raises(SegflowError, match=r"one channel for each label of its previous stage.*found 3 in source"):
        transfer_weights(target, source.state_dict(), "source", cascade=True)
    assert not transfer_weights(make_network(channels=3), source.state_dict(), "source", cascade=True).adapted


def test_nothing_in_common_is_refused():
    with pytest.raises(SegflowError, match="no tensor fits"):
        transfer_weights(make_network(), {"something.weight": torch.zeros(3)}, "source")


def test_a_run_starts_from_another_ones_weights(toy: Toy, caplog: pytest.LogCaptureFixture):
    toy.train("first")
    labels = {"background": 0, "ball": [1, 2], "core": 2}
    dataset = replace(toy.record.dataset, labels=Labels.from_json(labels, [1, 2]))
    dataset = replace(dataset, raw={**dataset.raw, "labels": labels, "regions_class_order": [1, 2]})
    with caplog.at_level(logging.WARNING):
        toy.train(
            "second",
            record=replace(toy.record, dataset=dataset),
            settings={"initial_weights": str(toy.run("first").path)},
        )
    assert "heads.0.weight" in caplog.text


@pytest.mark.parametrize("where", ["folder", "file"])
def test_weights_are_read_from_a_run_or_a_file(toy: Toy, where: str):
    toy.train()
    source = toy.run().path if where == "folder" else toy.run().checkpoint("best")
    assert set(read_initial_weights(source)) == set(make_network().state_dict())


@pytest.mark.parametrize("form", ["bundle", "nnunet", "nnunet.zip", "checkpoint_final.pth"])
def test_a_training_starts_from_a_model_of_any_form(toy: Toy, form: str):
    toy.train("one/fold_0")
    run, target = toy.folder / "one", toy.folder / form
    if form == "bundle":
        export_bundle(run, target)
    else:
        model = export_nnunet_model(run, target if form != "checkpoint_final.pth" else toy.folder / "results")
        target = next(model.rglob(form)) if form.endswith(".pth") else target
    weights = read_initial_weights(target)
    expected = {name.removeprefix("network."): value for name, value in toy.weights("one/fold_0").items()}
    assert weights.keys() == make_network().state_dict().keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert toy.train("two", settings={"initial_weights": str(target)}).finished


def test_a_source_that_is_not_there_is_told_with_what_may_be(tmp_path: Path):
    with pytest.raises(SegflowError, match=r"training\.initial_weights: there is no .*gone; expected .*a bundle"):
        read_initial_weights(tmp_path / "gone")


def test_of_several_folds_the_one_that_is_taken_is_named(toy: Toy, caplog: pytest.LogCaptureFixture):
    for fold in (1, 4):
        toy.train(f"run/fold_{fold}", record=replace(toy.record, fold=fold), settings={"seed": fold})
    with caplog.at_level(logging.INFO):
        weights = read_initial_weights(toy.folder / "run")
    assert f"of 2 folds in {toy.folder / 'run'}, those of fold 1" in caplog.text
    for name, value in read_initial_weights(toy.run("run/fold_1").path).items():
        assert torch.equal(weights[name], value)


def test_a_run_that_is_not_finished_says_which_file_to_give(toy: Toy):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(callbacks=[PowerCut(1)])
    with pytest.raises(SegflowError, match=r"not trained to its end.*best\.ckpt"):
        read_initial_weights(toy.run().path)


def test_the_home_folder_may_be_written_as_a_tilde(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    toy.train("one")
    monkeypatch.setenv("HOME", str(toy.folder))
    assert toy.train("two", settings={"initial_weights": "~/one"}).finished


def test_a_foreign_file_is_no_source(tmp_path):
    torch.save({"weights": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(SegflowError, match="no weights of a segflow network"):
        read_initial_weights(tmp_path / "other.pt")


def test_other_channels_train_from_a_run(toy: Toy):
    toy.train("one")
    toy.store = make_store(toy.folder / "two_channels", channels=2)
    record = make_record(channels=2)
    assert toy.train("two", record=record, settings={"initial_weights": str(toy.run("one").path)}).finished


def test_frozen_parts_stay(toy: Toy):
    torch.manual_seed(0)
    before = make_network().state_dict()
    toy.train(settings={"freeze": ["encoder.*"]})
    for name, value in toy.weights().items():
        name = name.removeprefix("network.")
        if name.startswith("encoder."):
            assert torch.equal(value, before[name])
    assert not torch.equal(toy.weights()["network.heads.0.weight"], before["heads.0.weight"])


@pytest.mark.parametrize("patterns", [["encoder.stage7.*"], ["*"]])
def test_freezing_nothing_or_everything_is_refused(patterns: list[str]):
    with pytest.raises(SegflowError, match=r"training\.freeze"):
        freeze(make_network(), patterns)


def test_parts_have_rates_of_their_own():
    network = make_network()
    groups, factors = parameter_groups(network, {"encoder.*": 0.1, "*.norm.*": 0.5})
    by_factor = dict(zip(factors, groups, strict=True))
    names = {id(value): name for name, value in network.named_parameters()}
    assert factors[0] == 1.0
    assert all(names[id(p)].startswith("encoder.") for p in by_factor[0.1]["params"])
    assert any(".norm." in names[id(p)] for p in by_factor[0.1]["params"]), "the first pattern counts"
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_rates_reach_the_optimizer_and_follow_the_schedule(toy: Toy):
    toy.train(settings={"lr_factors": {"encoder.*": 0.1}})
    checkpoint = torch.load(toy.run().checkpoint("last"), weights_only=True)
    heads, encoder = (group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"])
    assert encoder == pytest.approx(heads / 10)


def test_a_rate_for_no_parameter_is_refused():
    with pytest.raises(SegflowError, match="lr_factors"):
        parameter_groups(make_network(), {"tail.*": 0.1})
