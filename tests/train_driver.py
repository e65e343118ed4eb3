"""Runs ``train.py`` and says on stdout when a picture was taken; can slow or break what it uses.

``TRAIN_DRIVER="OPTION ..." python tests/train_driver.py OVERRIDE ...``; Lightning starts the other
ranks the same way.
"""

import argparse
import atexit
import itertools
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--draw-s", type=float, default=0.0, help="every picture takes longer")
    parser.add_argument("--fail", choices=("renderer", "encoder", "logger", "training"))
    parser.add_argument("--rank-without-memory", type=int, help="it runs out in the third step")
    parser.add_argument("--without-swanlab", action="store_true")
    parser.add_argument("--hang-in-finish", action="store_true")
    parser.add_argument(
        "--digest", action="store_true", help="print what the weights are at the end"
    )
    # As at a terminal, also where the tests run in the background and Ctrl+C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = parser.parse_args(os.environ.get("TRAIN_DRIVER", "").split())
    if options.without_swanlab:
        sys.modules["swanlab"] = None
    patch(options)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).propagate = True  # imported before Hydra set up logging
    atexit.register(tell_process_group)
    # Not runpy: it changes sys.argv[0], by which Lightning starts the other ranks.
    program = REPOSITORY / "train.py"
    exec(compile(program.read_text(), str(program), "exec"), {"__name__": "__main__"})


def patch(options):
    from core.official import import_sam2

    import_sam2()
    from core.visualization import publisher, worker

    submit, draw_sheets = worker.BackgroundWorker.submit, publisher.draw_sheets

    def tell(self, task, **kwargs):
        taken = submit(self, task, **kwargs)
        if taken and kwargs.get("num_pictures", 1):
            print("picture taken", flush=True)
        return taken

    def slowly(*args):
        time.sleep(options.draw_s)
        return draw_sheets(*args)

    worker.BackgroundWorker.submit = tell
    publisher.draw_sheets = slowly
    if options.fail:
        make_fail(options.fail)
    if options.rank_without_memory is not None:
        run_out_of_memory(options.rank_without_memory)
    if options.hang_in_finish:
        import swanlab

        swanlab.finish = lambda **how: time.sleep(1000)
    tell_end_of_epochs()
    if options.digest:
        tell_weights_at_the_end()


def fail(*args, **kwargs):
    raise RuntimeError("injected")


def sometimes(function):
    calls = itertools.count()
    return lambda *args, **kwargs: fail() if next(calls) % 2 else function(*args, **kwargs)


def make_fail(what):
    import core.trainer
    from core.visualization import images, publisher

    if what == "renderer":
        publisher.render_sheet = sometimes(publisher.render_sheet)
    elif what == "encoder":
        images.encode_png = sometimes(images.encode_png)
    elif what == "logger":
        images._log_to = sometimes(images._log_to)
    elif what == "training":
        training_step = core.trainer.SAM2LightningModule.training_step

        def break_down(self, batch, batch_idx):
            if self.global_step == 3:
                fail()
            return training_step(self, batch, batch_idx)

        core.trainer.SAM2LightningModule.training_step = break_down


def run_out_of_memory(rank):
    import core.trainer

    train_on = core.trainer.SAM2LightningModule._train_on

    def train(self, batch, batch_idx):
        if self.global_step == 2 and self.global_rank == rank:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train_on(self, batch, batch_idx)

    core.trainer.SAM2LightningModule._train_on = train


def tell_end_of_epochs():
    import core.trainer

    def tell(self):
        print("epoch trained", flush=True)

    core.trainer.SAM2LightningModule.on_train_epoch_end = tell


def tell_weights_at_the_end():
    import core.trainer

    on_train_end = core.trainer.SAM2LightningModule.on_train_end

    def tell_weights(self):
        import hashlib

        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        print(f"rank {self.global_rank} weights {digest.hexdigest()}", flush=True)
        on_train_end(self)

    core.trainer.SAM2LightningModule.on_train_end = tell_weights


def tell_process_group():
    """A rank that ends in its group may be aborted by it."""
    if torch.distributed.is_initialized():
        print("still in the process group", flush=True)


if __name__ == "__main__":
    main()
