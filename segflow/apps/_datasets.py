"""The folder of ``dataset=…`` in raw layout: found, made, converted or downloaded."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from segflow.apps import _invocation, _shipped, _terminal
from segflow.apps._records import DatasetCommand, DatasetSettings, PathSettings
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError
from segflow.execution.progress import Progress, silent
from segflow.storage.file_names import DESCRIPTION_FILE, FINGERPRINT_FILE, REFERENCES_FOLDER

PHANTOM = "Dataset001_Phantom"
MAKERS = ("plan", "run")
"""Commands that take the phantom if nothing else can be meant. Their first line says so."""
_NAMED = re.compile(r"\d+|Dataset\d{3,}(_[\w.-]+)?")
"""Names that `dataset=` takes without an option of this name."""

logger = logging.getLogger(__name__)


def announce(settings: DatasetCommand, command: str, *, silent: bool = False) -> DatasetSettings:
    """Print the dataset of a command as the first line of its output.

    Args:
        settings: The command's settings.
        command: Its name.
        silent: Print nothing, as of several processes that do the same.

    Raises:
        SegflowError: No dataset was named, and the phantom is not clearly meant.
    """
    dataset, paths = settings.dataset, settings.paths
    if command != "demo" and not is_named(dataset):
        _check_unnamed(dataset, paths, command)
    if not silent:
        name = folder_name(dataset, paths)
        place = dataset.path or paths.raw / name
        what = ", the phantom that segflow makes itself" if dataset.source == "phantom" and not dataset.path else ""
        _terminal.say(f"Dataset {name} ({place}){what}")
    return dataset


def is_named(dataset: DatasetSettings) -> bool:
    """Whether the user or a user's file named the dataset."""
    own = dataset.source == "phantom" and dataset.name == PHANTOM and not dataset.path
    return not own or any(re.match(r"[+]*dataset[=.@]", override) for override in _invocation.overrides())


def _check_unnamed(phantom: DatasetSettings, paths: PathSettings, command: str) -> None:
    """Refuse the phantom if another dataset was probably forgotten."""
    problem, own = "which dataset? None was named", "dataset=phantom is the one that segflow makes itself."
    current = Path.cwd()
    for folder in (current, *list(current.parents)[:2]):
        if _is_dataset(folder):
            line = command_line(command, dataset__path=folder)
            raise SegflowError(problem, found=f"the current folder is of {folder.name}", fix=f"Name it: {line}; {own}")
    roots = (paths.raw, paths.preprocessed)
    present = {child.name for root in roots if root.is_dir() for child in root.iterdir() if _is_dataset(child)}
    if others := sorted(present - {phantom.name}):
        line = command_line(command, dataset=others[0])
        raise SegflowError(problem, found=", ".join(others), fix=f"Name it: {line}; {own}")
    if phantom.name not in present and command not in MAKERS:
        first = {
            "select": "Train first: segflow train dataset=…",
            "train": "Plan first: segflow plan dataset=…",
            "preprocess": "Plan first: segflow plan dataset=…",
        }.get(command, f"Name it: segflow {command} dataset=…")
        raise SegflowError(problem, fix=f"{first}; {own}")


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset: raw, planned, or a task of the decathlon."""
    beside = ("imagesTr", "labelsTr", REFERENCES_FOLDER, FINGERPRINT_FILE)
    return (folder / DESCRIPTION_FILE).is_file() and any((folder / name).exists() for name in beside)


def raw_folder(
    dataset: DatasetSettings, paths: PathSettings, *, make: bool = False, progress: Progress = silent
) -> Path:
    """The dataset's folder.

    Args:
        dataset: The dataset.
        paths: The folders.
        make: If it is missing, make, download or convert it, as its source says.
        progress: Called after each converted case.

    Raises:
        SegflowError: The folder does not exist, or the download failed.
    """
    from segflow.storage.raw_dataset import resolve_dataset

    root = paths.raw
    if dataset.path:
        folder = dataset.path
        if not folder.is_dir():
            raise SegflowError(f"dataset.path: there is no folder {folder}")
        if not _is_decathlon(folder):
            return folder
    elif dataset.source == "raw":
        return resolve_dataset(dataset.name, root)
    name = folder_name(dataset, paths)
    place = root / name
    if (place / DESCRIPTION_FILE).is_file():
        return place
    if not make:
        first = command_line("plan", **as_settings(dataset))
        raise SegflowError(f"there is no dataset {place}", fix=f"Plan first, which makes it: {first}")
    if dataset.path:
        return _converted(folder, root, progress)
    if dataset.source == "phantom":
        from segflow.storage.phantom import make_phantom

        return make_phantom(place)
    from segflow.apps._known import make_known

    return make_known(dataset, place, progress)


def present_raw_folder(dataset: DatasetSettings, paths: PathSettings) -> Path | None:
    """The dataset's folder if it exists; nothing is made or downloaded. A machine that trains need not have it."""
    from segflow.storage.raw_dataset import resolve_dataset

    root = paths.raw
    try:
        if dataset.path:
            folder = dataset.path
            if folder.is_dir() and _is_decathlon(folder):
                folder = root / folder_name(dataset, paths)
        elif dataset.source == "raw":
            folder = resolve_dataset(dataset.name, root)
        else:
            folder = root / dataset.name
    except SegflowError:
        return None
    return folder if (folder / DESCRIPTION_FILE).is_file() else None


def _is_decathlon(folder: Path) -> bool:
    from segflow.storage.json_files import read_json

    file = folder / DESCRIPTION_FILE
    if not file.is_file():
        return False
    content = read_json(file)
    return isinstance(content, dict) and "training" in content and "file_ending" not in content


def _converted(task: Path, root: Path, progress: Progress) -> Path:
    from segflow.exchange.decathlon import convert_decathlon, dataset_name

    target = root / dataset_name(task)
    if (target / DESCRIPTION_FILE).is_file():
        return target
    logger.info("converting the decathlon task %s", task)
    return convert_decathlon(task, root, None, progress=progress)


def folder_name(dataset: DatasetSettings, paths: PathSettings) -> str:
    """Name of the dataset's folders, without making or downloading anything."""
    from segflow.storage.raw_dataset import resolve_dataset

    if dataset.path:
        folder = dataset.path.resolve()
        if _is_decathlon(folder):
            from segflow.exchange.decathlon import dataset_name

            return dataset_name(folder)
        return folder.name
    if dataset.source != "raw" or re.match(r"Dataset\d+_", dataset.name):
        return dataset.name
    return resolve_dataset(dataset.name, paths.raw).name


def as_settings(dataset: DatasetSettings) -> dict[str, object]:
    """Settings that name this dataset on a command line."""
    name: dict[str, object] = {"dataset__name": dataset.name}
    if dataset.path:
        return {"dataset__path": dataset.path}
    if dataset.source == "phantom":
        return {"dataset": "phantom", **({} if dataset.name == PHANTOM else name)}
    if dataset.known:
        path = {"dataset__source": dataset.source_path} if dataset.source_path else {}
        return {"dataset": dataset.known, **({} if dataset.name == _shipped_name(dataset.known) else name), **path}
    if _NAMED.fullmatch(dataset.name):
        return {"dataset": int(dataset.name) if dataset.name.isdecimal() else dataset.name}
    return {"dataset": "raw", **name}


def shortened_words(given: Sequence[str]) -> list[str]:
    """Words of a command line, with ``dataset=42`` in place of ``dataset=raw dataset.name='42'``, as it is read."""
    name = next((found[1] for word in given if (found := re.fullmatch(r"dataset\.name='?([\w.-]+?)'?", word))), "")
    if "dataset=raw" not in given or not _NAMED.fullmatch(name):
        return [*given]
    rest = [word for word in given if not word.startswith("dataset.name=")]
    return [f"dataset={name}" if word == "dataset=raw" else word for word in rest]


def _shipped_name(known: str) -> str:
    """Name of a known dataset's folder in the shipped configuration."""
    return str(_shipped.content(_shipped.config_dir() / "dataset" / f"{known}.yaml").get("name", ""))


def preprocessed_folder(raw: Path, paths: PathSettings) -> Path:
    """Folder of the plans and arrays of a raw dataset.

    Raises:
        SegflowError: It is the raw dataset itself, whose dataset.json would be replaced.
    """
    folder = paths.preprocessed / raw.resolve().name
    if folder.resolve() == raw.resolve():
        raise SegflowError(
            "plans and arrays would lie within the raw dataset",
            found=folder,
            fix="Choose another place for them: paths.preprocessed=FOLDER.",
        )
    return folder
