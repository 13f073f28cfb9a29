"""Pages of the documents: their fences are read, and what a reader would type is run, in order, on a small phantom.

What a fence means:

- ``sh``: each line is a command. ``segflow``, ``python FILE`` and ``mkdir``, ``cp``, ``mv``, ``ls``, ``cat`` run; of
  ``make``, ``pip``, ``docker``, ``tensorboard`` and ``export`` it is checked that what they name exists.
- ``python`` or ``yaml`` whose first line is a comment with a path, such as ``# my_losses.py``: a file, written before
  the first command runs. Other ``python`` runs as a script at its place.
- ``text``, ``json``, ``yaml`` and others: shown, not run.
- ``<!-- compose -->`` in the line above a fence: the ``segflow`` command lines in it compose (also behind ``srun`` and
  the like), Python is only compiled. ``<!-- fails -->``: each command fails, and what the next ``text`` fence shows
  stands in its message.

Names of real datasets become the phantom, and trainings are as short as ``conf/`` here says. `run_page` is the door.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import forked_commands

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
CONF = Path(__file__).resolve().parent / "conf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PHANTOM = "Dataset001_Phantom"
EPOCHS = 2
"""Longest training that a command line may ask for; a larger ``trainer.max_epochs`` is cut to this."""
TIMEOUT_S = 300.0
RUN_AS_THEY_ARE = frozenset({"mkdir", "cp", "mv", "ls", "cat", "touch", "rm"})
ONLY_SHOWN = frozenset({"git", "cd", "source", "eval"})
LANGUAGES = frozenset({"text", "json", "yaml", "python", "sh", "toml", "csv", "html", "dockerfile", "ini", "xml"})
PLACES = (
    *("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "SEGFLOW_SCRATCH", "SEGFLOW_CONF"),
    *("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "HYDRA_FULL_ERROR"),
)
"""Variables of the tester's own environment that a page must not see."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^ *(?P=marks) *$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- (compose|fails) -->\s*\Z")
_PATH = re.compile(r"# (?P<path>[\w./-]+\.(?:py|yaml))(?:[ :].*)?$")


@dataclass(frozen=True)
class Fence:
    """One fenced block of a page.

    Attributes:
        page: Path of the page below ``docs/``.
        line: Number of its first line, from 1.
        language: First word behind the back-ticks.
        mark: ``compose``, ``fails``, or empty.
        text: What stands in it.
    """

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def file(self) -> str:
        """Path of the file that this fence shows; empty if it shows none."""
        first = _PATH.match(self.text.partition("\n")[0])
        return first["path"] if first and self.language in ("python", "yaml") and not self.mark else ""

    def commands(self) -> Iterator[tuple[int, str]]:
        """Number of the line, and command, of each command. A backslash continues a line."""
        number, whole = self.line, ""
        for line in self.text.splitlines():
            number += 1
            whole += line.strip().removesuffix("\\")
            if not line.rstrip().endswith("\\"):
                if whole and not whole.startswith("#"):
                    yield number, whole
                whole = ""


def fences(page: str) -> list[Fence]:
    """All fences of a page, by its path below ``docs/``."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        found.append(Fence(page, line, match["info"].strip(), mark[1] if mark else "", body))
    return found


def on_the_phantom(text: str, own: Sequence[str] = ()) -> str:
    """A text with the phantom in place of real datasets, and with short trainings.

    Args:
        text: A command line, a script or a file.
        own: Names of datasets that the page makes itself, such as ``Dataset042_Mine``; they stay.
    """
    stays = {*own, *(name[7:10].lstrip("0") for name in own)}
    shipped = {file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml")} - {"raw"}

    def named(match: re.Match[str]) -> str:
        word = match[1]
        real = word in shipped or word == PHANTOM or word.isdecimal()
        return "dataset=phantom" if real and word not in stays else match[0]

    text = re.sub(r"(?<![\w.])/data/(raw/|preprocessed/)?(?=Dataset\d{3}_)", lambda m: f"data/{m[1] or 'raw/'}", text)
    text = re.sub(r"Dataset\d{3}_\w+", lambda m: m[0] if m[0] in own else PHANTOM, text)
    text = re.sub(r"(?<=[(\s])dataset=\d+(?=[,)])", 'dataset="phantom"', text)  # a keyword in Python
    text = re.sub(r"\bdataset=([\w-]+)", named, text)
    return re.sub(r"max_epochs=(\d+)", lambda m: f"max_epochs={min(int(m[1]), EPOCHS)}", text)


def clean_environment() -> dict[str, str]:
    """The variables of a reader who has set none of segflow's."""
    return {key: value for key, value in os.environ.items() if key not in PLACES}


@dataclass
class Ran:
    """What the commands of a page printed.

    Attributes:
        commands: Each command as it ran, with its result.
    """

    commands: list[tuple[str, subprocess.CompletedProcess[str]]] = field(default_factory=list)

    def output(self, words: str) -> str:
        """Standard output of the first command that has these words."""
        return next(result.stdout for command, result in self.commands if words in command)


def run_page(
    page: str, folder: Path, *, own_datasets: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Ran:
    """Write the files of a page, and run its commands in order.

    Args:
        page: Its path below ``docs/``.
        folder: The workspace, see the fixtures in ``conftest.py``.
        own_datasets: Names of datasets that the page makes itself.
        environment: Further variables.

    Raises:
        AssertionError: A command failed, or names what does not exist. The message has the page, the line and what
            the command said.
    """
    blocks = fences(page)
    for fence in blocks:
        assert fence.language in LANGUAGES, (
            f"docs/{page}:{fence.line}: a fence '{fence.language}'; write one of {', '.join(sorted(LANGUAGES))}, "
            "and '<!-- compose -->' in the line above it for commands that only compose"
        )
        if fence.file:
            file = folder / fence.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(on_the_phantom(fence.text, own_datasets), encoding="utf-8")
    variables = {**clean_environment(), "SEGFLOW_CONF": str(CONF), **(environment or {})}
    page_run = _PageRun(folder, variables, own_datasets)
    for number, fence in enumerate(blocks):
        shown = blocks[number + 1].text if blocks[number + 1 :] and blocks[number + 1].language == "text" else ""
        page_run.fence(fence, shown)
    return page_run.ran


@dataclass
class _PageRun:
    """One run of a page's commands."""

    folder: Path
    environment: dict[str, str]
    own: Sequence[str]
    ran: Ran = field(default_factory=Ran)

    def fence(self, fence: Fence, shown: str) -> None:
        """Run or check one fence; ``shown`` is the text that follows it."""
        if fence.language == "json" and fence.text.lstrip().startswith("{") and "…" not in fence.text:
            json.loads(fence.text)
        if fence.language == "python" and not fence.file:
            if fence.mark == "compose":
                compile(fence.text, f"docs/{fence.page}:{fence.line}", "exec")
            else:
                self._script(fence)
        if fence.language == "sh" and fence.mark == "compose":
            commands = [(f"docs/{fence.page}:{line}", command) for line, command in fence.commands()]
            compose(
                [(place, on_the_phantom(text, self.own)) for place, text in commands], self.folder, self.environment
            )
        elif fence.language == "sh":
            for line, command in fence.commands():
                place = f"docs/{fence.page}:{line}"
                self._command(on_the_phantom(command, self.own), fence.mark, place, shown)

    def _script(self, fence: Fence) -> None:
        file = self.folder / "example_of_page.py"
        file.write_text(on_the_phantom(fence.text, self.own), encoding="utf-8")
        self._finished(self._python([], file), file.name, f"docs/{fence.page}:{fence.line}")

    def _command(self, command: str, mark: str, place: str, shown: str) -> None:
        words = shlex.split(command, comments=True)
        variables = {}
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        if words[0] in CHECKS:
            CHECKS[words[0]](words, self.folder, place)
        elif words[0] not in ONLY_SHOWN:
            self._finished(self._result(words, variables, place), command, place, fails=mark == "fails", shown=shown)

    def _result(self, words: list[str], variables: Mapping[str, str], place: str) -> subprocess.CompletedProcess[str]:
        if words[0] == "segflow":
            return self._python(words[1:], None, variables)
        if words[0] in ("python", "python3"):
            assert words[1].endswith(".py"), f"{place}: python runs a file"
            file = self.folder / words[1]
            return self._python(words[2:], file if file.is_file() else ROOT / words[1], variables)
        assert words[0] in RUN_AS_THEY_ARE, f"{place}: '{words[0]}' is no command that the tests of pages know"
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)

    def _python(
        self, words: Sequence[str], script: Path | None, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **(variables or {})}
        return forked_commands.run(self.folder, *words, environment=environment, script=script, seconds=TIMEOUT_S)

    def _finished(
        self,
        result: subprocess.CompletedProcess[str],
        command: str,
        place: str,
        *,
        fails: bool = False,
        shown: str = "",
    ) -> None:
        self.ran.commands.append((command, result))
        said = f"{result.stderr}\n{result.stdout}"
        assert (result.returncode != 0) == fails, f"{place}: {command}\nended with {result.returncode}:\n{said}"
        if fails:
            one_line = " ".join(said.split())
            assert " ".join(shown.split()) in one_line, f"{place}: {command}\ndoes not say '{shown}', but:\n{said}"


def compose(lines: Sequence[tuple[str, str]], folder: Path, environment: Mapping[str, str]) -> None:
    """Check that the ``segflow`` command line in each line is understood. Nothing of it runs.

    Args:
        lines: Place and text of each; ``segflow`` may stand behind other words, such as ``srun``.
        folder: The current folder.
        environment: All variables.
    """
    split = [(place, shlex.split(text, comments=True)) for place, text in lines]
    for place, words in split:
        assert "segflow" in words, f"{place}: no word is segflow"
    behind = json.dumps([(place, words[words.index("segflow") + 1 :]) for place, words in split])
    script = Path(__file__).with_name("compose_line.py")
    result = forked_commands.run(folder, behind, environment=environment, script=script, seconds=TIMEOUT_S)
    assert result.returncode == 0, result.stderr


def _make(words: list[str], folder: Path, place: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in words[1:] if "=" not in word and not word.startswith("-")):
        assert re.search(rf"^{re.escape(target)}:", text, flags=re.MULTILINE), f"{place}: no target '{target}'"


def _pip(words: list[str], folder: Path, place: str) -> None:
    """``pip install`` of segflow names extras that exist."""
    for word in words:
        if extras := re.fullmatch(r"(?:segflow|\.|dist/\S+)\[([\w,-]+)\](?:[=<>]\S+)?", word):
            unknown = set(extras[1].split(",")) - set(PROJECT["optional-dependencies"])
            assert not unknown, f"{place}: no extra {', '.join(unknown)}"


def _tensorboard(words: list[str], folder: Path, place: str) -> None:
    logdir = next((words[i + 1] for i, word in enumerate(words) if word == "--logdir"), "")
    assert (folder / logdir).is_dir(), f"{place}: there is no folder '{logdir}'"
    assert list((folder / logdir).rglob("events.*")), f"{place}: there are no curves in '{logdir}'"


def _docker(words: list[str], folder: Path, place: str) -> None:
    if words[1] == "build" and "--target" in words:
        text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        target = words[words.index("--target") + 1]
        assert re.search(rf"^FROM .* AS {target}$", text, flags=re.MULTILINE | re.IGNORECASE), (
            f"{place}: no target {target}"
        )


def _export(words: list[str], folder: Path, place: str) -> None:
    """A variable that is exported is one that segflow, or a library, reads."""
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "segflow").rglob("*.py")]
    for word in words[1:]:
        name = word.partition("=")[0]
        of_libraries = name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PATH", "PYTORCH_ENABLE_MPS_FALLBACK")
        assert of_libraries or any(name in text for text in sources), f"{place}: nothing reads {name}"


CHECKS: dict[str, Callable[[list[str], Path, str], None]] = {
    "make": _make,
    "pip": _pip,
    "tensorboard": _tensorboard,
    "docker": _docker,
    "export": _export,
}
"""Programs whose command lines are checked and not run."""
