"""Two processes: one draws, and whatever happens to its pictures, both train on the same."""

import os
import re
import signal
import socket

import pytest
from processes import TrainProcess, path_with_scontrol, png_files, wait_until_requeued

DDP = (
    "trainer.devices=2",
    "data.synthetic.num_train_clips=6",  # the last batch of each rank is smaller
    "data.synthetic.num_val_clips=3",
    "data.synthetic.min_objects=1",
    "data.synthetic.max_objects=3",  # of each clip, so of each rank, another number
    "data.batch_size=2",
    "trainer.max_steps=5",
    "model.prompt_type=mixed",
    "model.num_correction_points=1",
)


def start(tmp_path, *overrides, fail=None):
    driver = ["--digest"] if fail is None else ["--digest", "--fail", fail]
    return TrainProcess(tmp_path, *DDP, *overrides, driver=driver)


def weights_of_ranks(*processes):
    """End the training and return the digest of each rank's weights."""
    for train in processes:
        assert train.end() == 0, train.output
        assert "still in the process group" not in train.output
    output = "".join(train.output for train in processes)
    return dict(re.findall(r"rank (\d) weights (\w{64})", output))


def check_same_weights(trainings):
    weights = [weights_of_ranks(training) for training in trainings]
    assert set(weights[0]) == {"0", "1"}
    assert weights[0]["0"] == weights[0]["1"]
    assert all(other == weights[0] for other in weights)


def steps_of_pictures(train):
    return sorted(int(path.name.split("-")[0]) for path in png_files(train.log_dir))


def check_one_run(*processes):
    """All ranks end with the same weights, and only one of them logs and writes."""
    weights = weights_of_ranks(*processes)
    assert set(weights) == {"0", "1"}
    assert weights["0"] == weights["1"]
    train, output = processes[0], "".join(train.output for train in processes)
    assert len(list(train.log_dir.glob("run-*"))) == 1
    assert steps_of_pictures(train) == [0, 2, 2, 2, 2, 4, 4, 4]  # with three of each validation
    assert output.count("weights  ") == output.count("\nval/iou  ") == 1
    assert output.count("step 4/4  ") == 1
    assert not re.search(r"INFO|TPU|litlogger|swanlab.*:|weights_only|GLOBAL_RANK", output)
    assert [path.parent for path in train.run_dir.parent.rglob("last.pt")] == [
        train.run_dir / "weights"
    ]


START = (
    "trainer.max_steps=4",
    "trainer.devices=2",
    "trainer.enable_progress_bar=true",
    "visualizations.every_n_steps=2",
)


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_trains_one_run(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2")
    rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    launcher = (*torchrun, *rendezvous)
    check_one_run(TrainProcess(tmp_path, *START, driver=["--digest"], launcher=launcher))


def slurm_tasks(tmp_path, *overrides, **env):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "finetune",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        TrainProcess(
            tmp_path,
            *START,
            *overrides,
            env={**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, **env},
            driver=["--digest"],
        )
        for rank in ("0", "1")
    ]


@pytest.mark.slow
def test_slurm_tasks_train_one_run_and_a_requeued_job_goes_on(tmp_path):
    tasks = slurm_tasks(tmp_path)
    check_one_run(*tasks)
    run_dir = tasks[0].run_dir
    (run_dir / "checkpoints" / "last.ckpt").rename(run_dir / "hpc_ckpt_1.ckpt")
    again = slurm_tasks(tmp_path, "trainer.max_steps=6")
    weights = weights_of_ranks(*again)
    assert weights["0"] == weights["1"]
    assert re.search(r"Restored all states from .*hpc_ckpt_1.ckpt", again[0].output)
    assert steps_of_pictures(again[0]) == [0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(("0", "1"), marks=pytest.mark.long),
        pytest.param(("0",), marks=pytest.mark.long),
        ("1",),
    ],
    ids=["both", "first", "second"],
)
@pytest.mark.parametrize("validate_first", [False, pytest.param(True, marks=pytest.mark.long)])
def test_ranks_end_together_after_sigterm(asked, validate_first, tmp_path):
    tasks = slurm_tasks(
        tmp_path,
        "trainer.max_steps=2000",
        f"trainer.validate_first={validate_first}",
        f"data.synthetic.num_val_clips={2000 if validate_first else 2}",
        f"trainer.limit_val_batches={1000 if validate_first else 1}",
    )
    tasks[0].wait_for("picture taken", 1 if validate_first else 6)
    for rank in asked:
        tasks[int(rank)].send(signal.SIGTERM)
    for task in tasks:
        assert task.end() == 143, task.output
        assert "Traceback" not in task.output
    assert len(png_files(tasks[0].log_dir)) == tasks[0].num_taken()
    assert ("resume with" in tasks[0].output) == (not validate_first)


@pytest.mark.slow
@pytest.mark.long
def test_ranks_answer_a_requeue_signal_together(tmp_path):
    tasks = slurm_tasks(tmp_path, "trainer.max_steps=2000", PATH=path_with_scontrol(tmp_path))
    tasks[0].wait_for("picture taken", 6)
    tasks[1].send(signal.SIGUSR1)
    wait_until_requeued(tasks[0])
    for task in tasks:
        task.send(signal.SIGTERM)
    assert [task.end() for task in tasks] == [143, 143]
    assert list(tasks[0].run_dir.glob("hpc_ckpt_*.ckpt"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("signum", "to_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_ranks_of_lightning_leave_rank_zero_the_time_to_log(signum, to_all, tmp_path):
    # Lightning looks every 5 s for ranks that failed, and kills rank zero if one did.
    train = TrainProcess(
        tmp_path, "trainer.devices=2", "trainer.max_steps=2000", driver=["--draw-s", "2"]
    )
    train.wait_for("picture taken", 6)
    if to_all:
        os.killpg(train.process.pid, signum)
    else:
        train.send(signum)
    assert train.end() == 128 + signum, train.output
    assert len(png_files(train.log_dir)) == train.num_taken() >= 6


def test_one_rank_draws_and_a_broken_renderer_hangs_nobody(tmp_path):
    off = start(tmp_path / "off", "visualizations.enabled=false", "logger=csv")
    on = start(tmp_path / "on", "trainer.limit_val_batches=0", fail="renderer")
    check_same_weights([off, on])
    # Validated under each prompt type, with a collective for each.
    assert "val/iou@point" in (off.run_dir / "csv" / "metrics.csv").read_text()
    # Every other picture fails; were both ranks to draw, there would be twice as many.
    assert on.num_taken() == 5
    assert steps_of_pictures(on) == [0, 2, 4]
    assert len(list(on.log_dir.glob("run-*"))) == 1
    assert on.output.count("drawing or logging failed") == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("accumulate", [1, 2])
def test_faults_on_rank_zero_hang_nobody(accumulate, tmp_path):
    more = f"trainer.accumulate_grad_batches={accumulate}"
    off = start(tmp_path / "off", "visualizations.enabled=false", more)
    trainings = [off]
    for fail in (None, "renderer", "encoder", "logger"):
        training = start(tmp_path / f"{fail}", more, "visualizations.worst_clips=1", fail=fail)
        check_same_weights([off, training])
        trainings.append(training)
    assert steps_of_pictures(trainings[1])[0] == 0
    assert len(steps_of_pictures(trainings[1])) == trainings[1].num_taken()


@pytest.mark.slow
@pytest.mark.long
def test_resumed_ranks_are_the_uninterrupted_ones(tmp_path):
    options = (
        "scheduler=constant",
        "scheduler.warmup_fraction=0",
        "trainer.ema_decay=0.5",
        "model.lora.rank=2",
    )
    whole = start(tmp_path / "whole", *options)
    weights = weights_of_ranks(whole)
    first = start(tmp_path / "first", *options, "trainer.max_steps=3")
    weights_of_ranks(first)
    checkpoint = first.run_dir / "checkpoints" / "last.ckpt"
    second = start(tmp_path / "second", *options, f"ckpt_path={checkpoint}")
    assert weights_of_ranks(second) == weights
