"""Shipped options of the groups, built as the train command builds them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"


@cache
def _composed(group: str, option: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        texts = [f"+{group}={option}", *(f"{group}.{text}" for text in overrides)]
        return OmegaConf.to_container(hydra.compose(overrides=texts)[group])


def build(group: str, option: str, *overrides: str) -> Any:
    """What the option's ``_target_`` gives, anew each time; each override begins behind ``GROUP.``."""
    return hydra.utils.instantiate(_composed(group, option, *overrides), _convert_="all")


def augmentation(option: str = "nnunet", *overrides: str) -> Any:
    """An option of ``augmentation``, to be called with a patch size."""
    return build("augmentation", option, *overrides)
