"""What the training thread pays on a GPU, where nothing may wait for the device."""

import time

import torch

from ..fakes import DiscardingLogger, HookedModule
from ..scenes import make_scene
from .measure import Results


def measure(quick: bool) -> Results:
    """Time the hook at 4 frames, 1024 px and 8 objects, with synchronising calls forbidden."""
    results = Results()
    if not torch.cuda.is_available():
        results.notes.append("cuda: no GPU here, cuda_blocked_ms is left out")
        return results
    batch, outs_per_frame = make_scene(
        size=128 if quick else 1024, num_objects=8, device="cuda", noise=0.0
    )
    hooked = HookedModule(DiscardingLogger(), max_overhead=1.0)
    times = []
    for repeat in range(5 if quick else 30):
        torch.cuda.synchronize()
        if repeat == 4:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            started = time.perf_counter()
            hooked.next_event((batch, outs_per_frame))
            times.append((time.perf_counter() - started) * 1e3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        hooked.wait()
    peak_mb = (torch.cuda.max_memory_allocated() - before) / 2**20
    results.add(cuda_blocked_ms=times[4:], cuda_peak_extra_mb=peak_mb)
    if hooked.visualizer.dropped:
        results.notes.append(f"cuda: {hooked.visualizer.dropped} events were dropped")
    return results
