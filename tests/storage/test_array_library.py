"""The library of compressed arrays comes without what segflow never uses."""

from __future__ import annotations

import subprocess
import sys


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
