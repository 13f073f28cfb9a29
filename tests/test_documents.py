"""What stands beside the code says what is there: paths exist, versions agree, the hooks are the linters."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/scale.md")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_of_the_checkout_that_a_document_names_exist(name: str) -> None:
    named = re.findall(r"`((?:segflow|conf|tests|docs|benchmarks)/[\w./-]+)`", text(name))
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_that_a_document_names_exist(name: str) -> None:
    targets = set(re.findall(r"(?:`|^)make (\w+)", text(name), flags=re.MULTILINE))
    assert not [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)]


def test_the_hooks_before_a_commit_are_the_linters() -> None:
    (local,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert recipe is not None
    linters = [line.strip().removeprefix("$(BIN)/") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in local["hooks"]] == linters


def test_the_citation_is_of_this_version_and_names_the_method() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert [reference["doi"] for reference in citation["references"]] == ["10.1038/s41592-020-01008-z"]


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    assert re.search(r"^## \[Unreleased\]$", text("CHANGELOG.md"), flags=re.MULTILINE)
    kinds = set(re.findall(r"^### (\w+)$", text("CHANGELOG.md"), flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_contributing_names_every_package() -> None:
    packages = {folder.parent.name for folder in (ROOT / "segflow").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"`(\w+)`", text("CONTRIBUTING.md")))


@pytest.mark.parametrize("package", ["hydra-core", "omegaconf", "pytorch-lightning", "torch"])
def test_libraries_whose_internals_are_used_have_an_upper_bound(package: str) -> None:
    project = PROJECT["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    (requirement,) = [r for r in required if re.match(rf"{package}[<>=]", r)]
    assert "<" in requirement


def test_development_installs_tests_and_documents_too() -> None:
    groups = PROJECT["dependency-groups"]
    included = [entry["include-group"] for entry in groups["dev"] if isinstance(entry, dict)]
    assert included == ["test", "docs"]
    assert {"test", "docs", "dev"} <= set(groups)
