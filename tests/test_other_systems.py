"""Windows and macOS lack names that Linux has: segflow does without them, and with processes that are not forks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "segflow").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")])

SMALL = ["planner.base_features=4", "planner.max_features_3d=16", "planner.max_features_2d=16"]
SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]

MISSING_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
MISSING = {
    "os": r"EX_\w+|WNOHANG|W[A-Z]+|O_(NONBLOCK|CLOEXEC|DIRECT|DIRECTORY|NOFOLLOW|SYNC|TMPFILE)|fork\w*|register_at_fork"
    r"|get(uid|euid|gid|egid|groups|pgid|pgrp|sid|loadavg|xattr)|set(uid|gid|sid|pgid|pgrp|xattr)|killpg|nice|uname"
    r"|wait|waitid|wait3|wait4|chown|fchown|lchown|fchdir|mkfifo|mknod|sched_\w+|posix_\w+|memfd_create|eventfd|pidfd_\w+"
    r"|p(read|write)v?|readv|writev|sendfile|splice|copy_file_range|statvfs|fstatvfs|sync|fdatasync|sysconf\w*|pathconf"
    r"|openpty|ttyname|ctermid|lockf|pipe2|spawnv?l?pe?",
    "signal": r"SIG(ALRM|BUS|CHLD|CONT|HUP|IO|KILL|PIPE|QUIT|STOP|TSTP|TTIN|TTOU|USR1|USR2|VTALRM|WINCH|XCPU|RTM\w+)"
    r"|SIG_(BLOCK|UNBLOCK|SETMASK)|ITIMER_\w+|\w*itimer|alarm|pause|pthread_\w+|sig(pending|wait\w*|interrupt|timedwait)",
    "time": r"clock_\w+|CLOCK_\w+|tzset",
    "mmap": r"MADV_\w+|MAP_\w+|PROT_\w+",
    "select": r"epoll|poll|kqueue|EPOLL\w+|POLL\w+",
    "socket": r"AF_UNIX|SO_REUSEPORT|SOCK_(CLOEXEC|NONBLOCK)|send_fds|recv_fds",
}
"""Module → names that Windows or macOS lacks."""


def unguarded(file: Path) -> list[str]:
    """Uses of such names in functions, or in a module's own lines, that do not ask before whether they exist."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    scopes = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]
    inner = {id(node): scope for scope in scopes for node in ast.walk(scope)}  # the innermost comes last
    found = []
    for node in ast.walk(tree):
        use, guards = use_of(node)
        if use and not re.search(guards, ast.unparse(inner[id(node)])):
            found.append(f"{file.name}:{node.lineno} {use}")
    return found


def use_of(node: ast.AST) -> tuple[str, str]:
    """What a node uses of `MISSING`, and a pattern of what must stand in its function; empty for other nodes."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = node.value.id
        if module in MISSING and re.fullmatch(MISSING[module], node.attr):
            asked = rf"hasattr\({module}, '{node.attr}'\)|AttributeError|sys\.platform [!=]="
            return f"{module}.{node.attr}", asked
    elif isinstance(node, ast.Import | ast.ImportFrom):
        names = {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
        if names & MISSING_MODULES:
            return f"import of {names & MISSING_MODULES}", "except (ModuleNotFoundError|ImportError)"
    return "", ""


def test_no_name_that_a_system_lacks_is_used_unasked() -> None:
    assert [use for file in FILES for use in unguarded(file)] == []


def test_every_text_file_is_opened_with_its_encoding() -> None:
    tool = [sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514", "--no-cache"]
    done = subprocess.run([*tool, "segflow", "hydra_plugins"], cwd=ROOT, capture_output=True, text=True, check=False)
    if "No module named ruff" in done.stderr:
        pytest.skip("ruff is not installed")
    assert done.returncode == 0, done.stdout


PRETENCE = f"""
import builtins, multiprocessing, re, types
MISSING, MODULES = {MISSING!r}, {MISSING_MODULES!r}
multiprocessing.set_start_method("spawn", force=True)
original = builtins.__import__

class Lacking(types.ModuleType):
    def __init__(self, module):
        super().__init__(module.__name__)
        self.__dict__["_module"] = module
    def __getattr__(self, name):
        if re.fullmatch(MISSING[self._module.__name__], name):
            raise AttributeError(f"{{self._module.__name__}}.{{name}} is not there")
        return getattr(self._module, name)
    def __setattr__(self, name, value):
        setattr(self._module, name, value)

lacking = {{}}
def pretended(name, globals=None, locals=None, fromlist=(), level=0):
    ours = str((globals or {{}}).get("__name__", "")).startswith("segflow")
    if ours and name in MODULES:
        raise ModuleNotFoundError(f"No module named {{name!r}}")
    module = original(name, globals, locals, fromlist, level)
    if ours and name in MISSING and not level:
        return lacking.setdefault(name, Lacking(module))
    return module
builtins.__import__ = pretended
"""
"""Hides the names from segflow's own modules, in every process, since Python runs it before everything else."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process in which those names are hidden."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "sitecustomize.py").write_text(PRETENCE, encoding="utf-8")
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def test_every_module_is_imported_without_them(other: dict[str, str]) -> None:
    script = (
        "import importlib, os, pkgutil, sys, segflow\n"
        "from segflow.execution import machine\n"
        "assert machine.resource is None and not hasattr(machine.os, 'sysconf'), 'nothing is hidden'\n"
        "for module in pkgutil.walk_packages(segflow.__path__, 'segflow.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(machine.processor_count() > 0, machine.memory_bytes() > 0, machine.held_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=other, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True 0\n"


def test_a_dataset_is_planned_trained_and_predicted_without_them(other: dict[str, str], tmp_path: Path) -> None:
    images, model = "data/raw/Dataset001_Phantom/imagesTs", "outputs/Dataset001_Phantom/tinyPlans/3d_fullres/default"
    for words in (
        ["plan", "dataset=phantom", "planner.plans_name=tinyPlans", *SMALL],
        ["preprocess", "plans=tinyPlans", "configurations=3d_fullres"],
        ["train", "plans=tinyPlans", "fold=0", "training.num_workers=1", "inference.mirroring=false", *SHORT],
        ["predict", f"model={model}", f"input={images}", "output=predicted", "inference.mirroring=false"],
        ["evaluate", "prediction=predicted", "reference=data/raw/Dataset001_Phantom/labelsTs"],
    ):
        command = [sys.executable, "-m", "segflow", *words]
        done = subprocess.run(command, cwd=tmp_path, env=other, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    assert (tmp_path / "predicted" / "summary.json").is_file()
