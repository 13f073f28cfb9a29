"""Messages for errors of Hydra and OmegaConf.

Their texts are matched only here. They are not an interface, so tests check every sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from segflow.apps import _shipped
from segflow.apps._messages import known_keys, meant, no_group, no_option, unreadable


def explained(error: BaseException, folders: Sequence[Path], command: str) -> str | None:
    """The message for a command line or configuration that Hydra refuses; None for any other error."""
    if isinstance(error, MissingConfigException):
        return _missing(str(error), folders)
    if isinstance(error, OverrideParseException):
        return unreadable(error.override or "", folders)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition(error, folders, command)
    if isinstance(error, ValueError) and "Only one of --run, --multirun" in str(error):
        return "--cfg and --info show one configuration: leave -m out, and give each setting one value"
    return None


def _missing(text: str, folders: Sequence[Path]) -> str:
    match = re.search(r"Could not find '([\w/.-]+)'", text) or re.search(r"Could not load '([\w/.-]+)'", text)
    if not match:
        return " ".join(text.split())
    group, _, option = match[1].rpartition("/")
    return no_option(group, option, _shipped.options(group, folders))


def _composition(error: BaseException, folders: Sequence[Path], command: str) -> str:
    chain = list(_chain(error))
    text = "\n".join(str(e) for e in chain)
    key = next((e.full_key for e in chain if isinstance(e, OmegaConfBaseException) and e.full_key), None)
    several = re.search(r"Ambiguous value for argument '\+*([^=]+)=(.+?)'", text)
    if several:
        return (
            f"'{several[1]}' has several values; -m runs one after another, and a list is {several[1]}=[{several[2]}]"
        )
    override = re.search(r"Could not (?:override|append|delete) (?:to config\. |from config\. )?'?([\w./@-]+)'?", text)
    if missing := _missing_key(text, override[1] if override else None, key, known_keys(folders, command)):
        return missing
    added = re.search(r"An item is already at '([^']+)'", text)
    if added:
        return f"'{added[1]}' is there already: without + it is set"
    inside = re.search(r"In '([\w/.-]+)': Could not override '([\w/]+)@", text)
    if inside:
        return (
            f"{inside[1]}.yaml overrides '{inside[2]}' within its own section: its very first line must be "
            "'# @package _global_'"
        )
    if override and "Multiple values" not in text:
        return f"cannot set '{override[1]}': {' '.join(text.split())}"
    where = f"setting '{key}': " if key else ""
    variable = re.search(r"Environment variable '([^']+)' not found", text)
    if variable:
        return (
            f"{where}the environment variable {variable[1]} is not set; ${{oc.env:{variable[1]},VALUE}} has a default"
        )
    if re.search("Cannot merge (DictConfig with ListConfig|incompatible container types)", text):
        return f"{where}a list cannot take the place of a mapping, as augmentation.steps is: NAME: {{_target_: …}}"
    first = next((str(e).splitlines()[0] for e in reversed(chain) if str(e)), type(error).__name__)
    return f"{where}{first}"


def _missing_key(text: str, typed: str | None, key: str | None, known: Sequence[str]) -> str:
    """What to say of a key or group that is not there; empty where that is not what Hydra complains of."""
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '(\w+)')", text)
    if unknown:
        name = typed or key or unknown[1]
        if any(other.startswith(f"{name}.") for other in known):
            return f"setting '{name}' cannot be set as a whole; set its parts one by one, as {name}.PART=VALUE"
        return f"there is no setting '{name}'.{meant(name, known)}"
    group = re.search(r"Could not override '([\w/]+)'\.\s*No match in the defaults list", text)
    if group:
        return no_group(group[1], known)
    return f"there is no setting '{typed}'.{meant(typed, known)}" if typed and "does not exist" in text else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
