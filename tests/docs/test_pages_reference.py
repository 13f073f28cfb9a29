"""The reference: pages made from the code are current, and what is written by hand agrees with the code."""

from __future__ import annotations

import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import forked_commands
import pages
import pytest

from segflow.apps._purposes import COMMANDS
from segflow.core.dataset import REQUIRED_KEYS, DatasetDescription
from segflow.core.errors import SegflowError
from segflow.planning.configuration import NORMALIZATION_SCHEMES
from segflow.storage.readers import _SHIPPED

REFERENCE = pages.DOCS / "reference"
DATASET_JSON = (REFERENCE / "dataset_json.md").read_text(encoding="utf-8")
FOLDERS = (REFERENCE / "folders.md").read_text(encoding="utf-8")
SMALLEST: dict[str, Any] = next(
    json.loads(fence.text) for fence in pages.fences("reference/dataset_json.md") if fence.language == "json"
)


def test_pages_of_the_commands_are_current() -> None:
    """`make reference` writes them."""
    sys.path.insert(0, str(pages.ROOT / "scripts"))
    try:
        import write_reference
    finally:
        sys.path.pop(0)
    assert not write_reference.out_of_date(), "type: make reference"
    train = write_reference.page("train")
    assert "| `trainer.max_epochs` | `1000` | a whole number or null | Epochs of the training. |" in train
    assert "| `optimizer=adamw` |" in train


@pytest.mark.parametrize("page", ["reference/python.md", "reference/dataset_json.md", "reference/folders.md"])
def test_the_examples_run(page: str, workspace: Path) -> None:
    pages.run_page(page, workspace)


@pytest.mark.parametrize("page", ["reference/commands.md", *(f"reference/commands/{name}.md" for name in COMMANDS)])
def test_the_pages_of_commands_have_no_fences_that_run(page: str) -> None:
    assert all(fence.language == "text" for fence in pages.fences(page))


REFUSED = re.findall(r"^\| `(\".*?)` \| (.*) \|$", DATASET_JSON, flags=re.MULTILINE)


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_dataset_json_must_not_hold_is_refused_as_the_page_says(content: str, message: str) -> None:
    with pytest.raises(SegflowError) as refused:
        DatasetDescription.from_json(
            "Dataset042_X", {**SMALLEST, **json.loads(f"{{{content}}}")}
        ).labels.check_painting()
    assert str(refused.value) == message


def test_the_page_of_dataset_json_names_every_key_normalisation_and_reader() -> None:
    assert len(REFUSED) >= 10
    keys = set(re.findall(r"^\| `(\w+)`", DATASET_JSON, flags=re.MULTILINE))
    source = (pages.ROOT / "segflow" / "core" / "dataset.py").read_text(encoding="utf-8")
    read = set(re.findall(r"keys(?:\.get\(|\[)\"(\w+)\"", source)) | {"dataset", "label_file_ending"}
    assert {*REQUIRED_KEYS, *read} <= keys
    assert set(NORMALIZATION_SCHEMES) <= {key.casefold() for key in keys}
    for name, reader in _SHIPPED.items():
        row = next(line for line in DATASET_JSON.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert set(reader.endings) <= set(re.findall(r"`(\.[\w.]+)`", row)) or "by name only" in row


def test_every_file_of_a_job_is_described(workspace: Path) -> None:
    environment = {**pages.clean_environment(), "SEGFLOW_CONF": str(pages.CONF)}
    run = f"outputs/{pages.PHANTOM}/nnUNetPlans/3d_fullres/default/fold_0"
    for words in (
        [
            "predict",
            f"model={run}",
            f"input=data/raw/{pages.PHANTOM}/imagesTs",
            "output=predictions",
            "probabilities=true",
        ],
        ["evaluate", "prediction=predictions", f"reference=data/raw/{pages.PHANTOM}/labelsTs"],
        ["postprocess", "action=choose", "prediction=predictions", f"reference=data/raw/{pages.PHANTOM}/labelsTs"],
        ["bundle", f"model={run}", "output=model.segflow"],
        ["report", f"run={run}"],
    ):
        result = forked_commands.run(workspace, *words, environment=environment, seconds=300)
        assert result.returncode == 0, result.stderr
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", FOLDERS, flags=re.MULTILINE)
    described = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    described = [name.replace("CASE", "*").replace("_3d_fullres/", "_*/") for name in described]
    written = [
        file.relative_to(workspace)
        for file in workspace.rglob("*")
        if file.is_file() and file.relative_to(workspace).parts[:2] != ("data", "raw") and ".segflow" not in file.parts
    ]
    assert len(written) > 40
    unknown = [str(file) for file in written if not any(fnmatch(f"/{file}", f"*/{name}") for name in described)]
    assert not unknown, f"docs/reference/folders.md does not describe {unknown}"
