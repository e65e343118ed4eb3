"""SwanLab itself is at fault: missing, finished, its folder gone or full, its server away."""

import http.server
import os
import shutil
import subprocess
import threading
import time
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from fakes import visualizations
from processes import TrainProcess, png_files
from trainings import assert_same_training, assert_same_weights, fit, our_warnings, wait_until

import core.loggers
from core.config import Config, SwanLabConfig
from core.visualization import visualizer_of

API_KEY = "k" * 21


@pytest.fixture
def build(tmp_path):
    """Build the loggers of ``train.py`` with SwanLab's files in a folder of the test."""
    import swanlab

    def build(**swanlab_config):
        config = SwanLabConfig(**{"log_dir": str(tmp_path / "swanlog"), **swanlab_config})
        return core.loggers.build_loggers(Config(swanlab=config), tmp_path / "run")

    yield build
    if swanlab.has_run():
        swanlab.finish()


class At(pl.Callback):
    """Calls what `calls` has for a training step before it, once earlier pictures are logged."""

    def __init__(self, calls):
        self.calls = calls

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in self.calls:
            visualizer_of(pl_module).flush()
            self.calls[batch_idx]()


def steps_of_pictures(log_dir):
    """The steps of training pictures; SwanLab begins each file's name with its step."""
    return sorted({int(path.name.split("-")[0]) for path in png_files(log_dir)})


def test_random_states_are_untouched_by_swanlab(untouched, tmp_path, build):
    training = fit(tmp_path, visualizations(), build())
    assert_same_training(training, untouched)
    assert core.loggers.finish_swanlab(30)
    assert steps_of_pictures(tmp_path / "swanlog") == [0, 1, 2, 3, 4, 5, 6]


def test_encoder_that_raises_is_said_once_and_used_again(
    untouched, tmp_path, caplog, monkeypatch, build
):
    import core.visualization.images as images

    encode, failures = images.encode_png, []

    def fail_twice(image):
        if len(failures) < 2:
            failures.append(image)
            raise OSError("encoder broken")
        return encode(image)

    monkeypatch.setattr(images, "encode_png", fail_twice)
    assert_same_training(fit(tmp_path, visualizations(), build()), untouched)
    assert len(our_warnings(caplog)) == 1
    assert core.loggers.finish_swanlab(30)
    assert steps_of_pictures(tmp_path / "swanlog") == [2, 3, 4, 5, 6]


def test_run_finished_in_the_middle_costs_no_training(untouched, tmp_path, caplog, build):
    import swanlab

    training = fit(tmp_path, visualizations(), build(), callbacks=[At({2: swanlab.finish})])
    assert_same_training(training, untouched)
    messages = [record.getMessage() for record in our_warnings(caplog)]
    # Scalars and pictures go different ways; each is said once, and the end of pictures.
    assert sum("no longer accepts metrics" in message for message in messages) == 1
    assert sum("drawing or logging failed" in message for message in messages) == 1
    assert len(messages) <= 3
    assert steps_of_pictures(tmp_path / "swanlog") == [0, 1]


def test_deleted_log_directory_costs_no_training(untouched, tmp_path, caplog, build):
    log_dir = tmp_path / "swanlog"
    gone = tmp_path / "gone"

    def delete():
        # In one piece: SwanLab may write into a folder that is emptied file by file.
        log_dir.rename(gone)
        shutil.rmtree(gone)

    training = fit(tmp_path, visualizations(), build(), callbacks=[At({2: delete})])
    assert_same_training(training, untouched)
    assert core.loggers.finish_swanlab(60)
    assert {3, 4, 5, 6} <= set(steps_of_pictures(log_dir))
    messages = [record.getMessage() for record in our_warnings(caplog)]
    assert len(messages) == len(set(messages))


def test_log_directory_that_cannot_be_written_for_a_while_costs_pictures_alone(
    untouched, tmp_path, caplog, build
):
    log_dir, away = tmp_path / "swanlog", tmp_path / "away"

    def media():
        (folder,) = log_dir.glob("run-*/media")
        return folder

    def block():
        # A file in the place of the folder: permissions would not keep root out.
        wait_until(lambda: steps_of_pictures(log_dir) == [0, 1])
        folder = media()
        folder.rename(away)
        folder.touch()

    def unblock():
        folder = media()
        folder.unlink()
        away.rename(folder)

    training = fit(tmp_path, visualizations(), build(), callbacks=[At({2: block, 4: unblock})])
    assert_same_training(training, untouched)
    assert core.loggers.finish_swanlab(60)
    assert {0, 1, 4, 5, 6} <= set(steps_of_pictures(log_dir))
    messages = [record.getMessage() for record in our_warnings(caplog)]
    assert len(messages) == len(set(messages))


def test_log_directory_that_cannot_be_made_leaves_csv(untouched, tmp_path, caplog, build):
    (tmp_path / "swanlog").write_text("a file in the place of the folder")
    loggers = build()
    training = fit(tmp_path, visualizations(), loggers)
    assert_same_training(training, untouched)
    messages = [record.getMessage() for record in our_warnings(caplog)]
    assert len(messages) == 1
    assert "logger=swanlab cannot start" in messages[0]
    assert (tmp_path / "run" / "csv" / "run.html").is_file()
    assert (tmp_path / "run" / "csv" / "metrics.csv").is_file()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_costs_no_training(untouched, tmp_path, build, small_disk):
    loggers = build(log_dir=str(small_disk / "swanlog"))
    ballast = small_disk / "ballast"

    def fill():
        # SwanLab writes on a thread of its own.
        wait_until(lambda: steps_of_pictures(small_disk / "swanlog") == [0, 1])
        with open(ballast, "wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    return

    training = fit(tmp_path, visualizations(), loggers, callbacks=[At({2: fill})])
    assert_same_training(training, untouched)
    # SwanLab tries for 5 s per picture.
    started = time.monotonic()
    assert not core.loggers.finish_swanlab(1)
    assert time.monotonic() - started < 15
    ballast.unlink()
    core.loggers._abandoned[-1].join(60)
    assert not core.loggers._abandoned[-1].is_alive()
    steps = steps_of_pictures(small_disk / "swanlog")
    assert steps[:2] == [0, 1]
    assert steps[-1] == 6  # written once there was room again


# Through train.py


def test_train_py_goes_on_without_swanlab(tmp_path):
    train = TrainProcess(tmp_path, driver=["--without-swanlab"])
    assert train.end() == 0, train.output
    assert train.output.count("logger=swanlab cannot start") == 1
    assert (train.run_dir / "run.html").is_file()  # which takes the pictures
    assert (train.run_dir / "csv" / "metrics.csv").is_file()
    assert (train.run_dir / "weights" / "last.pt").is_file()


class Server:
    """An HTTP server on 127.0.0.1 that answers as SwanLab's does, with 500, or not at all."""

    def __init__(self):
        self.mode = "works"
        self.paths = []
        self._closing = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                server.paths.append(self.path)
                if server.mode == "hangs":
                    server._closing.wait(600)
                    return
                status, body = (500, "{}") if server.mode == "fails" else api(self)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


def api(request):
    """As much of SwanLab's API as a run needs to start."""
    import json

    path = request.path.removeprefix("/api")
    if path == "/login/api_key":
        login = {"sid": "s", "expiredAt": "2999-01-01T00:00:00.000Z"}
        return 200, json.dumps({**login, "userInfo": {"username": "someone"}})
    if request.command == "POST" and path.endswith("/experiment"):
        return 201, json.dumps({"cuid": "e1", "slug": "e1", "name": "run"})
    if request.command == "GET" and path.startswith("/project/"):
        project = {"cuid": "p1", "name": "p", "path": "/someone/p", "version": 1}
        return 200, json.dumps(
            {**project, "group": {"username": "someone"}, "_count": {"experiments": 0}}
        )
    return 200, "{}"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def online(tmp_path, address, *overrides, **options):
    return TrainProcess(
        tmp_path,
        "swanlab.mode=online",
        "swanlab.start_timeout_s=30",
        "swanlab.finish_timeout_s=2",
        *overrides,
        env={"SWANLAB_API_HOST": address, "SWANLAB_API_KEY": API_KEY},
        **options,
    )


def check_kept_locally(train):
    assert train.end() == 0, train.output
    assert train.output.count("the run is stored locally in") == 1
    assert train.output.count("warning: swanlab.mode=online cannot start") == 1
    # So short a run has not learnt to track, which is said too.
    said = [line for line in train.output.splitlines() if line.startswith("warning: ")]
    assert len([line for line in said if "has not learnt to track" not in line]) == 1
    assert len(png_files(train.log_dir)) == train.num_taken() >= 6
    assert API_KEY not in train.output


@pytest.mark.parametrize("mode", ["hangs", "fails", "is down"])
def test_run_is_kept_locally_when_the_server(
    mode, untouched, tmp_path, caplog, build, server, monkeypatch
):
    server.mode = mode
    if mode == "is down":
        server.close()
    monkeypatch.setenv("SWANLAB_API_HOST", server.address)
    monkeypatch.setenv("SWANLAB_API_KEY", API_KEY)
    # SwanLab repeats a request for 15 s when the server answers 500.
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda self, response=None: None)
    check = core.loggers._check_answers
    monkeypatch.setattr(core.loggers, "_check_answers", lambda host, timeout_s: check(host, 1.0))
    loggers = build(mode="online")
    assert_same_training(fit(tmp_path, visualizations(), loggers), untouched)
    messages = [record.getMessage() for record in our_warnings(caplog)]
    assert len(messages) == 1
    assert messages[0].endswith(f"the run is stored locally in {tmp_path / 'swanlog'}")
    assert API_KEY not in caplog.text
    assert core.loggers.finish_swanlab(30)
    assert steps_of_pictures(tmp_path / "swanlog") == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.long
def test_train_py_keeps_the_run_locally_when_the_server_hangs(tmp_path, server):
    server.mode = "hangs"
    check_kept_locally(online(tmp_path, server.address))


@pytest.mark.slow
@pytest.mark.long
def test_train_py_keeps_the_run_locally_when_the_server_is_down(tmp_path):
    check_kept_locally(online(tmp_path, "http://127.0.0.1:9"))


@pytest.mark.slow
@pytest.mark.long
def test_train_py_keeps_the_run_locally_when_the_server_answers_500(tmp_path, server):
    server.mode = "fails"
    check_kept_locally(online(tmp_path, server.address))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        "hangs",
        pytest.param("fails", marks=pytest.mark.long),
        pytest.param("works", marks=pytest.mark.long),
    ],
)
def test_train_py_ends_when_the_server_goes_away_in_the_middle(mode, tmp_path, server):
    without = TrainProcess(tmp_path / "without", "visualizations.enabled=false", "logger=csv")
    assert without.end() == 0, without.output
    train = online(tmp_path / "with", server.address)
    train.wait_for("picture taken")
    server.mode = mode
    train.wait_for("epoch trained")
    started = time.monotonic()
    assert train.end() == 0, train.output
    assert time.monotonic() - started < 30
    assert (train.output.count("SwanLab did not close its run") == 1) == (mode != "works")
    assert len(png_files(train.log_dir)) == train.num_taken() >= 6
    assert_same_weights(train.last_weights(), without.last_weights())


def test_start_that_never_returns_leaves_csv(tmp_path, monkeypatch, caplog):
    import swanlab

    release = threading.Event()
    monkeypatch.setattr(swanlab, "init", lambda **how: release.wait(60) and SimpleNamespace())
    config = SwanLabConfig(log_dir=str(tmp_path / "swanlog"), start_timeout_s=0.2)
    loggers = core.loggers.build_loggers(Config(swanlab=config), tmp_path / "run")
    assert [type(logger) for logger in loggers] == [core.loggers.GuardedCSV]
    assert "no answer within swanlab.start_timeout_s=0.2" in our_warnings(caplog)[0].getMessage()
    assert not core.loggers.finish_swanlab(1)  # the process must not wait for it
    release.set()
    core.loggers._abandoned[-1].join(10)
    assert core.loggers.finish_swanlab(1)
