"""What the machine itself does meanwhile: a commit waits for its disk, and everything for its processors."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROBES_PER_SECOND = 20
# As much as PostgreSQL writes ahead for a small transaction.
PROBE_BYTES = 8192


@dataclass
class Machine:
    """Seconds of each probe of the disk, and the share of the processors that the host gave to others."""

    syncs: list[float] = field(default_factory=list)
    stolen: float = 0.0


@contextlib.contextmanager
def watch(folder: Path) -> Iterator[Machine]:
    """Probes the disk of a folder, beside whatever else it has to do, until the context ends."""
    machine, ended = Machine(), threading.Event()
    prober = threading.Thread(target=probe, args=(folder, machine.syncs, ended))
    before = processors()
    prober.start()
    try:
        yield machine
    finally:
        ended.set()
        prober.join()
        stolen, whole = (now - then for now, then in zip(processors(), before, strict=True))
        machine.stolen = stolen / max(1, whole)


def probe(folder: Path, syncs: list[float], ended: threading.Event) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        while not ended.wait(1 / PROBES_PER_SECOND):
            os.pwrite(file.fileno(), bytes(PROBE_BYTES), 0)
            begin = time.monotonic()
            os.fdatasync(file.fileno())
            syncs.append(time.monotonic() - begin)


def processors() -> tuple[int, int]:
    """Ticks of all processors that the host took away, and all there were: proc(5), the first eight of `cpu`."""
    with open("/proc/stat") as stat:
        ticks = [int(ticks) for ticks in stat.readline().split()[1:9]]
    return ticks[7], sum(ticks)
