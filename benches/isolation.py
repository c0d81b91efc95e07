"""Measures what bots that never answer cost the others. Started by `run isolation`; see README.md.

`isolation.py FOLDER_OF_PROGRAMS`
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import psycopg

import fixtures
import machine
import measure
import services
from services import Failure

EVENTS_PER_SECOND = int(os.environ.get("EVENTS_PER_SECOND", 300))
SECONDS = int(os.environ.get("SHARE_SECONDS", 60))
SHARES = [float(share) for share in os.environ.get("SHARES", "0 0.10 0.25 0.50").split()]
HEALTHY_BOTS = 50
HUNG_BOTS = 200
CONVERSATIONS = 20  # of each bot
# A window is long enough for a p99, and short enough that most are free of what else happens on the machine.
WINDOW_S = 5
# How long after the last event the healthy bots' last calls are waited for.
PATIENCE_S = 30
WARM_UP_EVENTS = 500


@dataclass
class Measurement:
    """One share of events to bots that never answer."""

    latencies: list[float]
    published: int
    late_publishing: float
    cpu_seconds: float
    megabytes: float
    queued: int
    unfinished: int
    machine: machine.Machine


@contextlib.contextmanager
def endpoint(folder: Path, behaviour: str) -> Iterator[int]:
    """Starts an endpoint in a process of its own, and yields its port."""
    log = folder / f"endpoint-{behaviour}.log"
    argv = [sys.executable, "-B", Path(__file__).with_name("isolation_endpoint.py"), behaviour]
    with services.process(argv, log, stdout=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()
        if not line:
            raise Failure(f"the endpoint did not start:\n{services.tail(log)}")
        yield int(line)


class Bench:
    """The surroundings of the daemon."""

    def __init__(self, folder: Path, programs: Path, server_url: str, broker_url: str, ports: list[int]):
        fixtures.BOTS = len(ports)
        self.daemon = measure.Bench(folder, programs, server_url, broker_url, ports)

    def measure(self, share: float) -> Measurement:
        """A new database, a new queue and a new daemon; then a steady stream of events."""
        self.daemon.prepare_database(WARM_UP_EVENTS + EVENTS_PER_SECOND * SECONDS)
        self.daemon.prepare_queue(0)
        log = self.daemon.folder / "isolation.log"
        with services.process(self.daemon.argv("outhook"), log, cwd=self.daemon.folder) as child:
            try:
                return self.stream(share, child.pid)
            except Failure as failure:
                raise Failure(f"{failure}\nThe end of the daemon's log:\n{services.tail(log)}") from None

    def stream(self, share: float, pid: int) -> Measurement:
        stream = Stream(self.daemon)
        stream.publish(WARM_UP_EVENTS, 0.0)
        self.arrivals(stream.to_healthy)
        stream.to_healthy.clear()
        cpu = measure.cpu_seconds(pid)
        with machine.watch(self.daemon.folder) as meanwhile:
            stream.publish(EVENTS_PER_SECOND * SECONDS, share)
        cpu = measure.cpu_seconds(pid) - cpu
        queued, unfinished = self.daemon.queued(), self.unfinished()
        megabytes = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024
        arrived = self.arrivals(stream.to_healthy)
        latencies = [arrived[message] - due for message, due in stream.to_healthy.items()]
        return Measurement(
            latencies, len(latencies), stream.latest, cpu, megabytes, queued, unfinished, meanwhile
        )

    def arrivals(self, messages: dict[int, float]) -> dict[int, float]:
        """Waits until each of these messages has arrived, and returns when. Other processes have the same clock."""
        deadline = time.monotonic() + PATIENCE_S
        while (missing := len(messages) - int(self.daemon.endpoint("/count"))) > 0:
            if time.monotonic() > deadline:
                raise Failure(f"{missing} of {len(messages)} events of healthy bots did not arrive")
            time.sleep(0.05)
        arrived = json.loads(self.daemon.endpoint("/take", method="POST"))
        return {int(message): at for message, at in arrived.items()}

    def unfinished(self) -> int:
        with psycopg.connect(self.daemon.database_url) as database:
            return database.execute("SELECT count(*) FROM outhook_event WHERE state = 0").fetchone()[0]


class Stream:
    """Events at a steady rate. A latency counts from the moment at which its event was to be published, so a
    publisher that is late hides nothing."""

    def __init__(self, daemon: measure.Bench):
        self.daemon = daemon
        self.to_healthy: dict[int, float] = {}
        self.latest = 0.0
        self.sent = 0
        self.turns = {"healthy": 0, "hung": 0}

    def publish(self, events: int, share: float) -> None:
        persistent = pika.BasicProperties(delivery_mode=2)
        with self.daemon.channel() as channel:
            begin = time.monotonic()
            owed = 0.0
            for n in range(events):
                due = begin + n / EVENTS_PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
                owed += share
                hangs, owed = (True, owed - 1.0) if owed >= 1.0 else (False, owed)
                message, body = self.event(hangs)
                channel.basic_publish("", measure.QUEUE, body, persistent)
                self.latest = max(self.latest, time.monotonic() - due)
                if not hangs:
                    self.to_healthy[message] = due

    def event(self, hangs: bool) -> tuple[int, bytes]:
        kind, first, bots = ("hung", HEALTHY_BOTS, HUNG_BOTS) if hangs else ("healthy", 0, HEALTHY_BOTS)
        turn = self.turns[kind]
        self.turns[kind] += 1
        bot, conversation = first + turn % bots, turn // bots % CONVERSATIONS
        event = fixtures.event(bot + conversation * fixtures.BOTS)
        event["message"]["id"] = fixtures.FIRST_MESSAGE + self.sent
        self.sent += 1
        return event["message"]["id"], json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def quantile(latencies: list[float], share: float) -> float:
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def p99_of_windows(latencies: list[float]) -> float:
    """The median of the windows' p99: what bots do all the time shows here, a moment in which the disk stood does not."""
    windows = max(1, SECONDS // WINDOW_S)
    size = len(latencies) // windows
    return statistics.median(quantile(latencies[n * size : (n + 1) * size], 0.99) for n in range(windows))


def print_table(measured: dict[float, Measurement]) -> None:
    titles = ["hung", "healthy", "p50 ms", "p99/5 s", "p99 ms", "max ms", "p50 x", "p99/5s x", "p99 x"]
    titles += ["CPU s", "MB", "queued", "rows", "sync p99", "sync max", "stolen"]
    print("".join(f"{title:>10}" for title in titles))
    calm = next(iter(measured.values())).latencies
    for share, one in measured.items():
        p50, p99 = quantile(one.latencies, 0.50), quantile(one.latencies, 0.99)
        usual = p99_of_windows(one.latencies)
        cells = [
            f"{share:.0%}",
            f"{one.published}",
            f"{p50 * 1000:.1f}",
            f"{usual * 1000:.1f}",
            f"{p99 * 1000:.1f}",
            f"{max(one.latencies) * 1000:.1f}",
            f"{p50 / quantile(calm, 0.50):.2f}",
            f"{usual / p99_of_windows(calm):.2f}",
            f"{p99 / quantile(calm, 0.99):.2f}",
            f"{one.cpu_seconds:.1f}",
            f"{one.megabytes:.0f}",
            f"{one.queued}",
            f"{one.unfinished}",
            f"{quantile(one.machine.syncs, 0.99) * 1000:.1f}",
            f"{max(one.machine.syncs) * 1000:.1f}",
            f"{one.machine.stolen:.1%}",
        ]
        print("".join(f"{cell:>10}" for cell in cells))
    print(f"\nThe publisher was late by at most {max(one.late_publishing for one in measured.values()) * 1000:.1f} ms.")


def main(programs: Path) -> None:
    with (
        measure.surroundings() as (folder, server_url, broker_url),
        endpoint(folder, "answer") as healthy,
        endpoint(folder, "hang") as hung,
    ):
        ports = [healthy] * HEALTHY_BOTS + [hung] * HUNG_BOTS
        bench = Bench(folder, programs, server_url, broker_url, ports)
        measured = {}
        for share in SHARES:
            measured[share] = bench.measure(share)
            p99 = quantile(measured[share].latencies, 0.99) * 1000
            print(f"{share:.0%} of {EVENTS_PER_SECOND} events/s hung: p99 {p99:.1f} ms", flush=True)
        print()
        print_table(measured)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
