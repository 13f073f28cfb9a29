"""The harness says where a page is wrong, and every page has a test."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
import yaml

from segflow.apps._purposes import COMMANDS

ROOT = pages.ROOT


def nav_pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [page for child in children for page in nav_pages(child)]  # type: ignore[union-attr]


NAV = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_every_page_is_in_the_table_of_contents_once() -> None:
    written = {str(file.relative_to(pages.DOCS)) for file in pages.DOCS.rglob("*.md")}
    assert sorted(NAV) == sorted(written)


def test_every_page_is_named_by_a_test() -> None:
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    named = {*re.findall(r"\"([\w/]+\.md)\"", tests), *(f"reference/commands/{name}.md" for name in COMMANDS)}
    assert set(NAV) <= named, f"no test of tests/docs names {sorted(set(NAV) - named)}"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    return tmp_path / "page.md"


def run(page: Path, text: str) -> pages.Ran:
    page.write_text(text, encoding="utf-8")
    folder = page.parent / "work"
    folder.mkdir(exist_ok=True)
    return pages.run_page(page.name, folder)


def test_files_are_written_and_commands_run_in_their_order(page: Path) -> None:
    text = """
```python
# twice.py
import sys

DOUBLE = 2
if __name__ == "__main__":
    print(DOUBLE * int(sys.argv[1]))
```

* in a list:

  ```sh
  # a comment
  python twice.py \\
      21
  segflow --version
  ```

```python
import twice

print(twice.DOUBLE)
```
"""
    ran = run(page, text)
    assert ran.commands[0][1].stdout == "42\n"
    assert ran.output("segflow --version").startswith("segflow ")
    assert ran.output("example_of_page.py") == "2\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\nsegflow train optimizer=sdg\n```\n", r"page\.md:2: segflow train optimizer=sdg\nended with 2"),
        ("\n\n```sh\nmake dinner\n```\n", r"page\.md:4: no target 'dinner'"),
        ('```sh\npip install "segflow[nothing]"\n```\n', "no extra nothing"),
        ("```sh\nexport SEGFLOW_NOTHING=1\n```\n", "nothing reads SEGFLOW_NOTHING"),
        ("```sh\nfrobnicate\n```\n", "'frobnicate' is no command"),
        ("```bash\nls\n```\n", "a fence 'bash'"),
        ("```sh compose\nls\n```\n", "'<!-- compose -->' in the line above"),
        ("```python\nraise ValueError('so')\n```\n", "ValueError: so"),
        ("<!-- fails -->\n```sh\nsegflow --version\n```\n", "ended with 0"),
        ("<!-- fails -->\n```sh\nsegflow trian\n```\n\n```text\nanother\n```\n", "does not say 'another"),
        ("<!-- compose -->\n```sh\nsrun segflow train optimizer=sdg\n```\n", "no 'sdg' for 'optimizer'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(page: Path, text: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        run(page, text)


def test_marked_fences_compose_or_fail_as_the_page_says(page: Path) -> None:
    run(page, "<!-- compose -->\n```sh\nsrun -n 2 segflow train dataset=42 trainer.devices=2 fold=3\n```\n")
    run(page, "<!-- compose -->\n```python\nfrom nowhere import nothing\n```\n")
    run(page, "<!-- fails -->\n```sh\nsegflow trian\n```\n\n```text\ndid you mean\n'segflow train'?\n```\n")


def test_real_datasets_become_the_phantom() -> None:
    line = "segflow train dataset=msd_liver trainer.max_epochs=250 model=outputs/Dataset003_Liver/x"
    there = "segflow train dataset=phantom trainer.max_epochs=2 model=outputs/Dataset001_Phantom/x"
    assert pages.on_the_phantom(line) == there
    code = "segflow.train(dataset=42, fold=0, trainer__max_epochs=250)"
    assert pages.on_the_phantom(code) == 'segflow.train(dataset="phantom", fold=0, trainer__max_epochs=2)'
    assert pages.on_the_phantom("dataset=42 dataset.path=/data/Dataset042_X") == (
        "dataset=phantom dataset.path=data/raw/Dataset001_Phantom"
    )
    assert pages.on_the_phantom("dataset=42 a=Dataset042_X", ["Dataset042_X"]) == "dataset=42 a=Dataset042_X"
