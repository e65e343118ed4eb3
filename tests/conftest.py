"""What holds for every test: one thread for torch, and nothing left behind for the next one."""

import os
import sys
from pathlib import Path

import pytest
import torch
from processes import WITHOUT_PROBES, started

import core.loggers


@pytest.fixture(autouse=True, scope="session")
def quick():
    """Toy models gain nothing from threads that fight for the cores of the other workers."""
    torch.set_num_threads(1)
    os.environ.update(WITHOUT_PROBES)


@pytest.fixture(autouse=True)
def no_index(monkeypatch):
    """Nothing is kept of small data sets, some of which tests damage, in the user's cache."""
    monkeypatch.setattr("core.config.cache_folder", lambda: None)


@pytest.fixture(autouse=True)
def no_traces():
    """A test that leaves SwanLab's run open, a hanging call, or a run book here fails by itself."""
    environment = dict(os.environ)
    yield
    while started:
        started.pop().kill()
    os.environ.clear()
    os.environ.update(environment)
    swanlab = sys.modules.get("swanlab")
    left_open = swanlab is not None and swanlab.has_run()
    if left_open:
        swanlab.finish()
    for thread in core.loggers._abandoned:
        thread.join(10)
    hanging = [thread for thread in core.loggers._abandoned if thread.is_alive()]
    assert not left_open, "SwanLab's run was left open"
    assert not hanging, "a call into a logger was left hanging"
    here = [name for name in ("run.html", "pictures") if Path(name).exists()]
    assert not here, f"{here} was left in the current folder"
