"""Fixtures of the tests of the whole program."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from processes import clean_environment
from trainings import fit

from core.config import VisualizationsConfig


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """The training without visualisation."""
    return fit(tmp_path_factory.mktemp("untouched"), VisualizationsConfig())


@pytest.fixture
def dashboard():
    """Serve a SwanLab folder on a free port; ask it with ``get(path)``."""
    served = []

    def serve(log_dir):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        swanlab = [sys.executable, "-m", "swanlab"]
        process = subprocess.Popen(
            [*swanlab, "watch", str(log_dir), "-h", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(log_dir),
        )
        served.append(process)

        def get(path):
            address = f"http://127.0.0.1:{port}/api/v1{path}"
            with urllib.request.urlopen(address, timeout=20) as page:
                return page.read()

        deadline = time.monotonic() + 60
        while True:
            try:
                get("/project")
                return get
            except OSError:
                assert process.poll() is None, process.stdout.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    yield serve
    for process in served:
        process.terminate()
        process.wait(20)
