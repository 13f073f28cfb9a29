"""The library of compressed arrays comes without what segflow never uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_its_http_client_is_loaded_when_it_is_used() -> None:
    script = """
import sys
from segflow.storage.array_library import array_library

library = array_library()
assert "httpx" not in sys.modules
client = library.remote_ctable.httpx
assert client.HTTPStatusError.__name__ == "HTTPStatusError"
import httpx
assert httpx.Client is client.Client
assert type(httpx) is type(sys)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_client_that_is_there_already_stays() -> None:
    script = """
import httpx
from segflow.storage.array_library import array_library

assert array_library().remote_ctable.httpx is httpx
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_module_that_is_used_while_it_is_imported_is_loaded_then(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("value = 3")
    (tmp_path / "outer.py").write_text("import inner\nfrom inner import value\nagain = inner.value")
    script = """
import sys
from segflow.storage.array_library import _loaded_when_used

with _loaded_when_used("inner"):
    import outer
assert outer.value == outer.again == 3
assert "inner" in sys.modules and type(sys.modules["inner"]) is type(sys)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
