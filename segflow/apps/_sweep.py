"""The jobs of a sweep, the places of their results, and run names that distinguish them.

Jobs that share a folder would collide only when the second one begins. Here this is noticed before the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segflow.apps._commands import record_of
from segflow.core.errors import SegflowError

DEFAULT = "default"
"""The default run name."""
SWEPT = "swept"
"""Name of the resolver that gives a swept setting's value as a part of a folder's name."""

LONGEST = 60
"""Largest number of characters of a value in a folder's name."""


def swept_value(key: str, *, _root_: DictConfig) -> str:
    """Value of ``${swept:KEY}``: a group's option or a setting's value, as a part of a folder's name."""
    choices = HydraConfig.get().runtime.choices
    value = choices[key] if key in choices else OmegaConf.select(_root_, key)
    text = "".join(sign if sign.isalnum() or sign in "._+-=" else "-" for sign in str(value))
    return text.strip("-")[:LONGEST]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The jobs of a command line. Without a sweep there is one job.

    Attributes:
        overrides: Overrides with the first value of each swept key.
        configs: The composed configuration for each combination of swept options, with Hydra's section.
        values: Swept setting → its values.
        swept: All swept keys.
        instead: Overrides that take the place of ``hydra.sweeper.params``, if the command line has some of its keys:
            Hydra's own sweeper would take the values of both.
    """

    overrides: tuple[str, ...]
    configs: tuple[DictConfig, ...]
    values: Mapping[str, Sequence[Any]]
    swept: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()

    def told_apart(self, command: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
        """The overrides with a run name for each job if needed, and the first of these names.

        Raises:
            SegflowError: Jobs would still write over each other's results.
        """
        places = record_of(command).PLACES
        if not self.swept or not places or not self._shared(places):
            return [*overrides, *self.instead], []
        texts = self._names(places) if "run_name" in places else []
        named = replace(self, values={**self.values, "run_name": texts}) if texts else self
        if shared := named._shared(places):
            raise SegflowError(
                "jobs of this sweep would write over each other's results",
                found="; ".join(shared),
                fix=f"Their {', '.join(places)} are the same: give each its own, such as "
                f"{places[0]}=NAME-${{{self.swept[0]}}}",
            )
        kept = [o for o in overrides if o.split("=")[0].lstrip("+") != "run_name"]
        written = ",".join(QuotedString(text, Quote.single).with_quotes() for text in texts)
        names = dict.fromkeys(str(config.run_name) for _, config in named.jobs())
        return [*kept, *self.instead, f"run_name={written}"], list(itertools.islice(names, 3))

    def jobs(self) -> Iterator[tuple[str, DictConfig]]:
        """The swept values of each job, as text, and its configuration, which is changed for the next job."""
        number = 0
        for config in self.configs:
            for values in itertools.product(*self.values.values()):
                OmegaConf.set_readonly(config.hydra, False)
                for key, value in {**dict(zip(self.values, values, strict=True)), "hydra.job.num": number}.items():
                    OmegaConf.update(config, key, value, merge=False, force_add=True)
                HydraConfig.instance().set_config(config)  # names of runs may refer to it
                choices = config.hydra.runtime.choices
                texts = (f"{k}={choices[k] if k in choices else OmegaConf.select(config, k)}" for k in self.swept)
                yield " ".join(texts), config
                number += 1

    def _shared(self, places: Sequence[str]) -> list[str]:
        """Two jobs whose results would go to the same place; empty if there are none."""
        seen: dict[tuple[str, ...], str] = {}
        for text, config in self.jobs():
            place = tuple(str(OmegaConf.select(config, key)) for key in places)
            if place in seen:
                return [seen[place], text]
            seen[place] = text
        return []

    def _names(self, places: Sequence[str]) -> list[str]:
        """Run names with the values of those swept settings that are not yet in the folder's name."""
        by_folder = (*places, "dataset", "configuration", "fold")
        suffix = "_".join(f"{key.replace('/', '.')}-${{{SWEPT}:{key}}}" for key in self.swept if key not in by_folder)
        given = self.values.get("run_name")
        if given is None:
            present = {str(OmegaConf.to_container(config)["run_name"]) for config in self.configs}  # type: ignore[index,call-overload]
            given = list(present - {DEFAULT}) if len(present) == 1 else []
        return [f"{name}_{suffix}" for name in given] or [suffix] if suffix else []


def read(name: str, overrides: Sequence[str], folders: Sequence[Path], multirun: bool) -> Sweep:
    """Compose the jobs of a command line. For other sweepers than Hydra's own, each value is checked once."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = {_key_of(o): o for o in parser.parse_overrides(list(overrides))}
    first = tuple(_first(o) if multirun else str(o.input_line) for o in parsed.values())
    config = compose(name, list(first), True)
    if not multirun and config.hydra.mode != RunMode.MULTIRUN:
        return Sweep(first, (config,), {})
    params = _of_sweeper(config, parser)
    added = [f"{key}={value}" for key, value in _params(config).items() if key not in parsed]
    instead = ("hydra.sweeper.params=null", *added) if params.keys() & parsed.keys() else ()
    parsed = {**params, **parsed}
    swept = {key: o for key, o in parsed.items() if o.is_sweep_override()}
    groups = {k: o for k, o in swept.items() if any((folder / o.key_or_group).is_dir() for folder in folders)}
    fixed = [_first(o) for key, o in parsed.items() if key not in groups]
    combined = list(itertools.product(*(list(_texts(o)) for o in groups.values())))
    configs = tuple(compose(name, [*fixed, *texts], True) for texts in combined)
    values = {o.key_or_group: _values(o, parser) for key, o in swept.items() if key not in groups}
    return Sweep((*fixed, *combined[0]), configs, values, tuple(o.key_or_group for o in swept.values()), instead)


def _key_of(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+")


def _of_sweeper(config: DictConfig, parser: OverridesParser) -> dict[str, Override]:
    """What ``hydra.sweeper.params`` of Hydra's own sweeper adds to the command line."""
    params = [f"{key}={value}" for key, value in _params(config).items()]
    return {_key_of(override): override for override in parser.parse_overrides(params)}


def _params(config: DictConfig) -> dict[str, Any]:
    if not str(config.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        return {}
    return dict(config.hydra.sweeper.params or {})


def _texts(override: Override) -> Iterator[str]:
    """``KEY=VALUE`` for every value of a sweep; for a continuous one for its start and end."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return (f"{key}={value}" for value in override.sweep_string_iterator())
    interval: Any = override.value()
    return iter([f"{key}={interval.start}", f"{key}={interval.end}"])


def _first(override: Override) -> str:
    return next(_texts(override)) if override.is_sweep_override() else str(override.input_line)


def _values(override: Override, parser: OverridesParser) -> list[Any]:
    return [parser.parse_override(text).value() for text in _texts(override)]
