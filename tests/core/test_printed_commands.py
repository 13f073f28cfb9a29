"""A printed command line gives the value that was meant, through the shell's words and the settings' grammar."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from segflow.apps._command_line import rewrite
from segflow.core.command_line import command_line

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = st.text(
    alphabet=st.sampled_from(list("ab1 0./\"'\\$;{}[]()=,:~#%&*!?|<>`\n\té日-_+@^")), min_size=1, max_size=14
).filter(lambda text: text != "???")


def heard(line: str) -> dict[str, object]:
    """What Hydra makes of a pasted line, behind our own rewriting, which the ranks of a training see twice."""
    program, command, *words = shlex.split(line)
    assert program == "segflow"
    rewritten = rewrite(command, words, [CONF])
    assert rewrite(command, rewritten, [CONF]) == rewritten
    overrides = OverridesParser.create().parse_overrides([word for word in rewritten if word != "-m"])
    node = OmegaConf.create({override.key_or_group: override.value() for override in overrides})
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(NAMES, NAMES)
@example("it's \\'", "${paths.raw}")
@example("2024", "null")
@example("0", "\\\n")
@example("a,1,b", "\\${x}\\")
def test_any_name_arrives_as_it_is(folder: str, name: str) -> None:
    values = {"dataset__path": f"/{folder}", "run_name": name, "training__initial_weights": [folder, name]}
    expected = {key.replace("__", "."): value for key, value in values.items()}
    assert heard(command_line("train", **values)) == expected
    assert heard(command_line("train", "-m", **values)) == expected


@settings(max_examples=60, deadline=None)
@given(NAMES)
@example("~me")
@example("1e3")
def test_any_path_is_a_path(name: str) -> None:
    path = Path(name)
    arrived = heard(command_line("predict", model=path, input="DIR", output=path / "x"))
    assert Path(str(arrived["model"])).expanduser().absolute() == path.absolute()
    assert arrived["input"] == "DIR"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Dataset001_A", "Dataset001_A"),
        (True, "true"),
        (None, "null"),
        (0.5, "0.5"),
        ([0, "all"], "'[0,all]'"),
        (Path("/data/it's (1)"), shlex.quote('"/data/it\'s (1)"')),
    ],
)
def test_plain_values_stay_readable(value: object, text: str) -> None:
    quoted = command_line("predict", inference__folds=value)
    assert shlex.split(quoted)[2] == f"inference.folds={shlex.split(text)[0]}"


def test_nobody_else_writes_values_into_a_command_line() -> None:
    source = Path(__file__).resolve().parents[2] / "segflow"
    by_hand = re.compile(r"segflow [a-z]+ [^\"]*=\{")
    assert not [str(file) for file in source.rglob("*.py") if by_hand.search(file.read_text(encoding="utf-8"))]
