"""Records of settings: types, meanings, defaults and errors come from the dataclass and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from segflow.apps import _messages
from segflow.apps._parts import Part, SettingError
from segflow.apps._read_settings import read
from segflow.apps._settings import defaults_of, plain, sections_of, settings_of
from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class Inner:
    """A section.

    Attributes:
        rate: How fast. It has a second sentence.
        devices: Which devices.
        mode: How.
        factors: Pattern → factor.
        window: Two
            numbers.
        count: How many.
        more: Any other keyword.
    """

    rate: float = 0.5
    devices: int | str | list[int] = 1
    mode: Literal["one", "two"] = "one"
    factors: dict[str, float] = field(default_factory=dict)
    window: tuple[int, int] = (0, 1)
    count: int = 3
    more: dict[str, Any] = field(default_factory=dict, metadata={"rest": True})

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise SegflowError("inner.rate must not be negative", found=self.rate)
        if self.count < 0:
            raise SegflowError("inner.count must not be negative, for a mode to be", found=self.count)


@dataclass(kw_only=True)
class Base:
    """Shared.

    Attributes:
        place: Where.
    """

    place: Path | None = None


@dataclass(kw_only=True)
class Outer(Base):
    """A command.

    Attributes:
        inner: The section.
        name, title: Two names.
        network: The network.
        loggers: Some parts.
    """

    inner: Inner = field(default_factory=Inner)
    name: str = "default"
    title: str | None = None
    network: Part
    loggers: dict[str, Part | None] = field(default_factory=dict)


NAN = float("nan")
NETWORK = {"_target_": "segflow.network.build.build_network", "_partial_": True}


def built(**values: Any) -> Outer:
    return read(Outer, {"network": NETWORK, **values})


def refused(**values: Any) -> str:
    with pytest.raises(SegflowError) as caught:
        built(**values)
    return str(caught.value)


def test_a_record_lists_its_settings_with_type_default_and_meaning() -> None:
    found = {setting.key: setting for setting in settings_of(Outer)}
    assert list(found)[:3] == ["place", "inner.rate", "inner.devices"]
    assert found["inner.devices"].type == "a whole number or a text or a list of whole numbers"
    assert found["inner.rate"].meaning == "How fast. It has a second sentence."
    assert found["inner.window"].meaning == "Two numbers."
    assert found["name"].meaning == found["title"].meaning == "Two names."
    assert found["place"].meaning == "Where."
    assert found["place"].is_path
    assert not found["inner.devices"].is_path
    assert found["inner.factors"].is_open
    assert "inner.more" not in found
    assert list(sections_of(Outer)) == ["inner", "network", "loggers"]


def test_defaults_are_plain_and_read_back() -> None:
    values = defaults_of(Outer)
    assert values["inner"]["window"] == [0, 1]
    assert "network" not in values
    assert plain(built(**values)) == {**values, "network": NETWORK}


@pytest.mark.parametrize("value", [2, "auto", "0,1", [0], [0, 1], -1])
def test_a_field_takes_every_type_that_it_names(value: object) -> None:
    assert built(inner={"devices": value}).inner.devices == value


def test_numbers_become_what_their_fields_hold() -> None:
    made = built(inner={"rate": 1, "count": 1e3, "window": [1, 2]}, name=2024, place="~/x")
    assert (made.inner.count, type(made.inner.count), made.name) == (1000, int, "2024")
    assert made.inner.window == (1, 2)
    assert made.place == Path("~/x").expanduser()


def test_what_a_section_has_no_field_for_goes_where_it_says_and_comes_back() -> None:
    made = built(inner={"detect_anomaly": True})
    assert made.inner.more == {"detect_anomaly": True}
    assert plain(made)["inner"]["detect_anomaly"] is True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inner": {"rate": "fast"}}, "'inner.rate' has the wrong type; found fast; expected a number. It means: How"),
        ({"inner": {"rate": -1}}, "inner.rate must not be negative; found -1.0. It means: How fast."),
        ({"inner": {"rate": NAN}}, "'inner.rate' is not a number; found nan; expected a number"),
        ({"inner": {"factors": {"a": NAN}}}, "'inner.factors.a' is not a number"),
        ({"network": {**NETWORK, "slopes": [0.5, NAN]}}, "'network.slopes.1' is not a number"),
        ({"inner": {"count": -1}}, "for a mode to be; found -1. It means: How many."),
        ({"inner": {"count": 1.5}}, "found 1.5; expected a whole number"),
        ({"inner": {"count": True}}, "found true; expected a whole number"),
        ({"inner": {"count": None}}, "found null; expected a whole number"),
        ({"inner": {"mode": "three"}}, "found three; expected one | two"),
        ({"inner": {"window": [1, 2, 3]}}, "expected 2 values"),
        ({"inner": {"factors": {"a": "b"}}}, "'inner.factors.a' has the wrong type; found b; expected a number"),
        ({"inner": 3}, "'inner' cannot be set as a whole; found 3; expected its parts one by one, as inner.rate=VALUE"),
        ({"nam": "x"}, "there is no setting 'nam'. Did you mean 'name'?"),
        ({"devices": 2}, "Did you mean 'inner.devices'?"),
        ({"network": {"norm": "batch"}}, "'network' has the wrong type"),
        ({"network": {**NETWORK, "nrm": "batch"}}, "no setting 'network.nrm'. Did you mean 'network.norm'?"),
        ({"network": {**NETWORK, "norm": 3}}, "'network.norm' has the wrong type; found 3; expected str | None"),
        ({"loggers": {"a": {"_target_": "pytorch_lightning.loggers.CSVLogger", "nam": ""}}}, "'loggers.a.nam'"),
        ({"loggers": {"a": 3}}, "'loggers.a' has the wrong type"),
    ],
)
def test_what_does_not_fit_is_named_with_its_meaning(values: dict[str, Any], said: str) -> None:
    assert said in refused(**values)


def test_only_settings_that_cannot_be_are_errors_of_the_command_line() -> None:
    with pytest.raises(SettingError):
        built(nam=1)
    with pytest.raises(SegflowError) as caught:
        built(inner={"rate": -1})
    assert not isinstance(caught.value, SettingError)


def test_parts_of_a_users_own_are_read_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "raise RuntimeError('imported')\n"
        "class Base:\n    def __init__(self, topology, width: int = 3, **options): ...\n"
        "class Mine(Base):\n    pass\n"
        "def make(topology, *, depth: int = 2): ...\n"
        "from segflow.augmentation.step import ChannelStep\n"
        "class Rings(ChannelStep):\n    strength: float = 0.1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    built(network={"_target_": "my_networks.Mine", "width": 4, "other": 1})
    assert "'network.width' has the wrong type" in refused(network={"_target_": "my_networks.Mine", "width": "x"})
    assert "Did you mean 'network.depth'?" in refused(network={"_target_": "my_networks.make", "dept": 3})
    undecorated = refused(network={"_target_": "my_networks.Rings", "strength": 0.2})
    assert "Write @dataclass(kw_only=True) above the class my_networks.Rings." in undecorated
    built(network={"_target_": "my_networks.Rings", "probability": 0.2})
    built(network={"_target_": "not_there.Network", "anything": 1})


def test_what_an_entry_of_a_part_cannot_be_is_told_with_its_key() -> None:
    step = {"_target_": "segflow.augmentation.intensity.Gamma", "probability": 7}
    part = Part({"_target_": "segflow.augmentation.batch_augmentation.Augmentation", "steps": {"second": step}})
    with pytest.raises(SegflowError) as caught:
        part.build()
    said = "steps.second.probability must lie between 0 and 1; found 7.0"
    assert _messages.explain(caught.value, [], "train") == (said, 1)
