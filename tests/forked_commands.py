"""Commands of segflow as forks of one process that has loaded the libraries, since loading takes most of the time.

A fork behaves as ``python -m segflow`` does: arguments, folder, environment, streams, signals and exit code are its
own. What a command loads, how long it takes, how much memory it holds, and what libraries read from the environment as
they are loaded is not that of a new process: tests of these start one. So does `run` where the system has no such forks
(macOS, Windows). The start of the console script is tested elsewhere.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

FORKS = sys.platform == "linux"


def run(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str],
    script: Path | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """``segflow ARGUMENTS`` in a folder, to its end, with exactly these variables.

    Args:
        folder: The working folder.
        *arguments: The arguments.
        environment: All variables.
        script: A file of Python to run in place of segflow.
        seconds: The command and all that it started are killed after this time; None waits for ever.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    command = [sys.executable, *([str(script)] if script else ["-m", "segflow"]), *arguments]
    if not FORKS:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
    with tempfile.TemporaryDirectory() as place:
        streams = Path(place, "stdout"), Path(place, "stderr")
        fork = Fork(folder, arguments, environment, *streams, session=seconds is not None, script=script)
        try:
            code = fork.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(fork.pid, signal.SIGKILL)
            raise
        texts = [stream.read_bytes().decode(errors="replace") for stream in streams]
    return subprocess.CompletedProcess(command, code, *texts)


class Fork:
    """A command that runs.

    Args:
        folder: Its working folder.
        arguments: Its arguments.
        environment: All its variables.
        stdout: File for its output.
        stderr: File for its messages; it may be the same.
        session: Whether it begins a session of its own.
        script: A file of Python to run in place of segflow.
    """

    def __init__(
        self, folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str], stdout: Path, stderr: Path,
        *, session: bool = False, script: Path | None = None,
    ) -> None:  # fmt: skip
        self._server = _server()
        for stream in (stdout, stderr):
            stream.touch()
        # The server's own folder is another one.
        places = {"folder": folder, "stdout": stdout, "stderr": stderr, **({"script": script} if script else {})}
        self.pid = self._server.start(
            {
                **{"words": arguments, "variables": dict(environment), "session": session, "script": None},
                **{name: str(place.absolute()) for name, place in places.items()},
            }
        )

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._server.code(self.pid, 0)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It takes longer than these seconds.
        """
        code = self._server.code(self.pid, seconds)
        if code is None:
            raise subprocess.TimeoutExpired(["segflow"], seconds or 0)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class _Server:
    """The process that forks; one for each process of pytest."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._codes: dict[int, int] = {}
        self._rest = b""
        atexit.register(self._process.communicate)

    def start(self, request: Mapping[str, Any]) -> int:
        stream = self._process.stdin
        assert stream
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        while "pid" not in (told := self._told(None)):
            pass
        self._codes.pop(told["pid"], None)  # of an earlier process of this number
        return told["pid"]

    def code(self, pid: int, seconds: float | None) -> int | None:
        while pid not in self._codes and self._told(seconds):
            pass
        return self._codes.get(pid)

    def _told(self, seconds: float | None) -> dict[str, int]:
        """Its next message; empty if there is none within these seconds."""
        stream = self._process.stdout
        assert stream
        while b"\n" not in self._rest:
            if not select.select([stream], [], [], seconds)[0]:
                return {}
            self._rest += (more := os.read(stream.fileno(), 65536))
            assert more, "the process that starts commands has ended"
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict[str, int] = json.loads(line)
        if "ended" in told:
            self._codes[told["ended"]] = told["code"]
        return told


@cache
def _server() -> _Server:
    return _Server()


# ------------------------------------------------------------------------------------------------ within the server


def _load() -> None:
    import importlib
    import pkgutil

    import segflow

    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does before torch is loaded
    sys.modules["blosc2"] = None  # type: ignore[assignment]  # it starts threads, which a fork would not have
    names = [module.name for module in pkgutil.walk_packages(segflow.__path__, "segflow.")]
    for name in [*names, "hydra.core.plugins", "pytorch_lightning", "torch.utils.tensorboard", "matplotlib.figure"]:
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except ImportError:  # it needs blosc2, or what is not installed
                continue
    del sys.modules["blosc2"]
    gc.freeze()  # a collection in a fork would copy all of it
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"


def _serve() -> dict[str, Any]:
    """Fork for each line on stdin; returns in the forks only, with what they shall do."""
    answers = os.dup(1)
    running: dict[int, int] = {}  # descriptor → process
    rest = b""
    while True:
        ready = select.select([0, *running], [], [])[0]
        for descriptor in ready:
            if descriptor:
                pid = running.pop(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(answers, json.dumps({"ended": pid, "code": code}).encode() + b"\n")
        if 0 not in ready:
            continue
        more = os.read(0, 65536)
        if not more:
            os._exit(0)
        *lines, rest = (rest + more).split(b"\n")
        for line in lines:
            pid = os.fork()
            if not pid:
                for descriptor in (answers, *running):
                    os.close(descriptor)
                return dict(json.loads(line))
            running[os.pidfd_open(pid)] = pid
            os.write(answers, json.dumps({"pid": pid}).encode() + b"\n")


def _become(request: Mapping[str, Any]) -> NoReturn:
    """Run it with folder, variables, streams and arguments as a new process would have them."""
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv[1:] = request["words"]
    code = _code_of(request["script"])
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter would take seconds to free what all these libraries hold


def _code_of(script: str | None) -> int:
    """Run segflow or a script. The result is the exit code."""
    sys.path[0] = str(Path(script).resolve().parent) if script else os.getcwd()
    try:
        if script:
            sys.argv[0] = script
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module("segflow", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _load()
    _become(_serve())
