"""What is composed without Hydra is what Hydra composes, and what needs Hydra goes to it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.apps import _command_line, _composition, _messages, _plain, _settings
from segflow.apps._plain_values import NeedsHydraError, parsed
from segflow.core.command_line import setting_text

CONF = Path(__file__).resolve().parents[2] / "conf"

LINES = [
    *sorted(_plain.COMMANDS),
    "predict model=run input=images output=out",
    "predict model=run 'input=[a.nii.gz,my b.nii.gz, c ]' output='my maps, new'",
    "predict model=run 'input=/data/a b=(1).nii.gz' output=~/out part=0/4 shards=2",
    "predict model=run input=in output=out inference=quick inference.device=cpu verbose=true",
    "predict inference=no_mirroring overlap=0.75 folds=[0,1] checkpoint=best probabilities=TRUE",
    "predict inference.folds=0 inference.devices=null max_memory_gb=1.5e1",
    "predict devices=[1,cpu] paths.outputs=2024 paths.scratch=",
    "predict network=batch_norm network@previous_network=planned network.norm=instance",
    "predict ++network.memory_format=contiguous +inference=quick",
    "predict normalization={CT:{_target_:mine.Scale,low:-1e3,high:+2.5}} normalization.MR={_target_:mine.Other}",
    "predict reader._target_=mine.Reader reader.depth=3",
    "evaluate prediction=a reference=b labels=c evaluation.scores.surface=true",
    "evaluate metrics.bias={_target_:my.Bias,low:0} metrics.bias.high=[1,2] metrics.other=null",
    "ensemble members=[one,two] output=out weights=[2,1] resume=false",
    "ensemble members=one output=out weights=[2.5,1]",
    "postprocess action=apply prediction=a choice=b.json output=c processes=0",
    "convert source=files.csv dataset_id=42 labels={background:0,liver:1,tumour:[2,5]} name=2024",
    "doctor dataset=42 processes=0",
    "doctor dataset=/data/Dataset042_X",
    "doctor dataset=hippocampus paths.raw='my data'",
    "config find='learning rate'",
    "bundle action=export model=run output=liver.segflow format=nnunet folds=all bundle.configuration=2d",
]


def plain(line: str, *own: Path) -> dict[str, Any]:
    command, *words = shlex.split(line)
    words += [f"--config-dir={folder}" for folder in own]
    folders = [CONF, *own]
    values: dict[str, Any] = _settings.plain(
        _plain.composed(command, _command_line.rewrite(command, words, folders), folders)
    )
    return values


def of_hydra(line: str, *own: Path) -> dict[str, Any]:
    command, *words = shlex.split(line)
    words += [f"--config-dir={folder}" for folder in own]
    folders = [CONF, *own]
    composed = _composition.composed(command, _command_line.rewrite(command, words, folders), folders)
    values: dict[str, Any] = _settings.plain(composed)
    return values


@pytest.mark.parametrize("line", LINES)
def test_settings_are_those_that_hydra_composes(line: str) -> None:
    assert repr(plain(line)) == repr(of_hydra(line))


@pytest.mark.parametrize(
    "line",
    [
        "predict inference=nothing",
        "predict inference=qick model=a",
        "predict network@previous_network=batch_nrm",
        "predict modle=a",
        "predict inference.overlapp=0.5",
        "predict inference.overlap=much",
        "predict inference=3",
        "predict optimizer=adam",
        "evaluate evaluation=3",
        "predict part=4/4",
        "predict shards=0",
        "predict network.norms=batch",
        "predict reader=3",
        "bundle action=nothing",
        "bundle run=outputs/none",
        "postprocess postprocessing.processes=x",
    ],
)
def test_mistakes_are_told_as_with_hydra(line: str) -> None:
    told = []
    for compose in (plain, of_hydra):
        with pytest.raises(Exception) as caught:
            compose(line)
        told.append(_messages.explain(caught.value, [CONF], line.split()[0]))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "words",
    [
        "-m shards=1,2", "--cfg=job", "hydra/launcher=joblib", "hydra.mode=MULTIRUN", "+foo=1", "~network",
        "model=${paths.outputs}/run", "output='${oc.env:HOME}'", "shards=choice(1,2)", "shards=1,2", "model=???",
        "inference@inference.more=quick", "inference=quick inference=nnunet", "labels.1:2=3", "inference={overlap:0.5}",
    ],
)  # fmt: skip
def test_what_needs_hydra_goes_to_hydra(words: str) -> None:
    with pytest.raises(NeedsHydraError):
        plain(f"predict {words}")


OWN = {
    "inference/mine.yaml": "# Mine\ndefaults:\n  - quick\noverlap: 0.6\n",
    "inference/under.yaml": "defaults:\n  - _self_\n  - quick\noverlap: 0.6\ndevice: cpu\n",
    "network/mine.yaml": "defaults: [planned]\nwidth: 1e-3\nwhen: 2024-01-02\ndeep: {a: [1, {b: 0x10}], c: yes}\n"
    "_target_: my.Network\n",
    "normalization/mine.yaml": "CT: {_target_: my.Scale}\n",
    "metrics/bias.yaml": "bias: {_target_: my.Bias, low: 1_000, high: 1e3}\n",
    "metrics/other.yaml": "other: {_target_: my.Other}\nbias: {low: 3}\n",
    "reader/mine.yaml": "_target_: my.Reader\nempty:\n",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "predict inference=mine network=mine network@previous_network=mine",
        "predict inference=under normalization=mine reader=mine normalization.MR={_target_:my.Other}",
        "evaluate metrics=bias",
        "evaluate metrics=[bias,other] metrics.bias.low=7",
    ],
)
def test_files_of_a_users_own_are_read_as_hydra_reads_them(line: str, own: Path) -> None:
    assert repr(plain(line, own)) == repr(of_hydra(line, own))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inference/quick.yaml", "overlap: 0.5\n"),
        ("predict.yaml", "defaults: [_predict, _shared]\n"),
        ("inference/far.yaml", "# @package _global_\ninference: {overlap: 0.1}\n"),
        ("inference/far.yaml", "device: ${oc.env:DEVICE}\n"),
        ("inference/far.yaml", "defaults:\n  - override /network: batch_norm\n"),
        ("inference/far.yaml", "defaults:\n  - optional nothing\n"),
        ("inference/far.yaml", "- 1\n"),
    ],
)
def test_files_that_only_hydra_understands_go_to_it(name: str, text: str, own: Path) -> None:
    (own / name).write_text(text, encoding="utf-8")
    option = "far" if "far" in name else "quick"
    with pytest.raises(NeedsHydraError):
        plain(f"predict inference={option}", own)


def test_a_key_that_comes_twice_is_refused(own: Path) -> None:
    (own / "inference" / "far.yaml").write_text("overlap: 0.5\noverlap: 0.25\n", encoding="utf-8")
    with pytest.raises(Exception, match="twice") as caught:
        plain("predict inference=far", own)
    told, code = _messages.explain(caught.value, [CONF, own], "predict")
    assert "not valid YAML" in told
    assert "far.yaml" in told
    assert code == 2


def hydras(text: str) -> Any:
    """Hydra's value of ``KEY=TEXT``. A sweep, which is none, raises."""
    override = OverridesParser.create().parse_override(f"key={text}")
    assert not override.is_sweep_override()
    return override.value()


SIGNS = st.text(st.sampled_from("ab01.eE+-_/%$@*?|:'\"\\[]{}, ~(n"), max_size=12)
WORDS = st.lists(
    st.sampled_from(["a", "null", "true", "1", "-1.5e3", "007", "1_0", "inf", "'x y'", '"q"', "[", "]", "{", "}", ",",
                     ":", "k:", " ", "\\'", "'", ".5", "5.", "1e5", "a/b.c", "${x}", "NaN", "1.2.3", "+"]),
    max_size=8,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(SIGNS | WORDS)
def test_a_value_is_what_hydra_reads(text: str) -> None:
    try:
        value = parsed(text)
    except NeedsHydraError:
        return
    assert repr(value) == repr(hydras(text))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.text(max_size=8)
        | st.text("ab /.'", max_size=8)
        | st.integers()
        | st.booleans()
        | st.none()
        | st.floats(allow_subnormal=False),
        st.lists,
    )
)
def test_what_segflow_writes_itself_needs_no_hydra(value: Any) -> None:
    text = setting_text(value)
    if "${" not in text and "???" not in text:
        assert repr(parsed(text)) == repr(hydras(text))
