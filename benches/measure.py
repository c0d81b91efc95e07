"""Measures the candidates in interleaved rounds and prints the ratios. Started by `run`; see README.md.

`measure.py FOLDER_OF_PROGRAMS`
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import psycopg

import fixtures
import services
from services import Failure

EVENTS = int(os.environ.get("EVENTS", 30_000))
SEQUENTIAL_EVENTS = int(os.environ.get("SEQUENTIAL_EVENTS", 3_000))
ROUNDS = int(os.environ.get("ROUNDS", 3))
RUN_TIMEOUT_S = int(os.environ.get("RUN_TIMEOUT", 300))

QUEUE = "outgoing_webhooks"
DATABASE = "bench"
CANDIDATES = ("outhook", "floor", "sequential")
# The endpoints are cheap to ask, the database is not: it is asked only once every event has been POSTed.
ENDPOINT_POLL_S = 0.05
DATABASE_POLL_S = 0.01

CONFIG = """\
[queue]
url = "{broker}"
name = "{queue}"
[database]
url = "{database}"
tables = "own"
auto_migrate = true
[egress]
allow = ["127.0.0.0/8"]
[reply]
to = "none"
[log]
filter = "warn"
[admin]
listen = ""
"""


@dataclass
class Measurement:
    """How one candidate drained the queue once."""

    events_per_second: float
    cpu_seconds_per_1000: float


class Bench:
    """The surroundings of a candidate: broker, database, endpoints, and its programs."""

    def __init__(self, folder: Path, programs: Path, server_url: str, broker_url: str, ports: list[int]):
        self.folder = folder
        self.programs = programs
        self.server_url = server_url
        self.database_url = f"{server_url}/{DATABASE}"
        self.broker_url = broker_url
        self.ports = ports
        self.config = folder / "config.toml"
        self.config.write_text(CONFIG.format(broker=broker_url, queue=QUEUE, database=self.database_url))

    def argv(self, candidate: str) -> list:
        arguments = [self.broker_url, QUEUE, self.database_url]
        match candidate:
            case "outhook":
                return [self.programs / "outhook", "run", "--config", self.config]
            case "floor":
                return [self.programs / "floor", *arguments]
            case _:
                return [sys.executable, Path(__file__).with_name("sequential_worker.py"), *arguments]

    def measure(self, candidate: str, events: int) -> Measurement:
        """Lets a candidate drain the queue, and checks that it made each call exactly once."""
        self.prepare_database(events)
        self.prepare_queue(events)
        self.endpoint("/reset", method="POST")
        log = self.folder / f"{candidate}.log"
        with services.process(self.argv(candidate), log, cwd=self.folder) as child:
            try:
                measurement = self.watch(child, events)
                child.terminate()
                self.check_exit(child)
                self.check_outcome(events)
            except Failure as failure:
                raise Failure(f"{candidate}: {failure}\nThe end of its log:\n{services.tail(log)}") from None
        return measurement

    def prepare_database(self, events: int) -> None:
        """A new database with outhook's tables: they bear Zulip's names, so all candidates use the same."""
        with psycopg.connect(f"{self.server_url}/postgres", autocommit=True) as server:
            server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            server.execute(f"CREATE DATABASE {DATABASE}")
        migrate = [self.programs / "outhook", "migrate", "--config", self.config]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(migrate, cwd=self.folder, **output)
        if done.returncode != 0:
            raise Failure(f"outhook migrate ended with {done.returncode}:\n{done.stdout}")
        # Only a client-side cursor takes several statements with parameters.
        options = {"autocommit": True, "cursor_factory": psycopg.ClientCursor}
        with psycopg.connect(self.database_url, **options) as database:
            database.execute(fixtures.ROWS, fixtures.rows(events, self.ports))
            database.execute("VACUUM (ANALYZE)")
            database.execute("CHECKPOINT")
        # Or else the kernel writes it half a minute later, and commits wait.
        os.sync()

    def prepare_queue(self, events: int) -> None:
        persistent = pika.BasicProperties(delivery_mode=2)
        with self.channel() as channel:
            channel.queue_delete(QUEUE)
            channel.queue_declare(QUEUE, durable=True)
            for body in fixtures.event_bodies(events):
                channel.basic_publish("", QUEUE, body, persistent)
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while self.queued() < events:
            if time.monotonic() > deadline:
                raise Failure("the broker did not take all events")
            time.sleep(ENDPOINT_POLL_S)

    def watch(self, child: subprocess.Popen, events: int) -> Measurement:
        """Waits until every event is POSTed and flagged. The clock starts with the first POST."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while (requests := self.stats()["requests"]) < events:
            self.check_alive(child, deadline, f"{requests} of {events} events POSTed")
            time.sleep(ENDPOINT_POLL_S)
        with psycopg.connect(self.database_url, autocommit=True) as database:
            while unflagged := database.execute(fixtures.UNFLAGGED).fetchone()[0]:
                self.check_alive(child, deadline, f"{unflagged} of {events} messages not flagged")
                time.sleep(DATABASE_POLL_S)
        seconds = self.stats()["seconds"]
        return Measurement(events / seconds, cpu_seconds(child.pid) / events * 1000)

    def check_alive(self, child: subprocess.Popen, deadline: float, progress: str) -> None:
        if child.poll() is not None:
            raise Failure(f"it ended by itself with {child.returncode}; {progress}")
        if time.monotonic() > deadline:
            raise Failure(f"not done within {RUN_TIMEOUT_S} s; {progress}")

    def check_exit(self, child: subprocess.Popen) -> None:
        """The floor does not handle SIGTERM, so it may die of it; the others may not fail in their drain."""
        try:
            code = child.wait(60)
        except subprocess.TimeoutExpired:
            raise Failure("it did not end within 60 s of SIGTERM") from None
        if code not in (0, -signal.SIGTERM):
            raise Failure(f"it ended with {code} after SIGTERM")

    def check_outcome(self, events: int) -> None:
        """Asked after the candidate's end: nothing can be added, unacknowledged deliveries are back."""
        stats = self.stats()
        if stats["requests"] != events or stats["distinct"] != events:
            posted = f"{stats['requests']} POSTs of {stats['distinct']} different events"
            raise Failure(f"{posted}, not {events} of each")
        if queued := self.queued():
            raise Failure(f"{queued} events are still queued")
        with psycopg.connect(self.database_url) as database:
            if unflagged := database.execute(fixtures.UNFLAGGED).fetchone()[0]:
                raise Failure(f"{unflagged} messages are not flagged")

    def queued(self) -> int:
        with self.channel() as channel:
            return channel.queue_declare(QUEUE, passive=True).method.message_count

    @contextlib.contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        with pika.BlockingConnection(pika.URLParameters(self.broker_url)) as connection:
            yield connection.channel()

    def stats(self) -> dict:
        return json.loads(self.endpoint("/stats"))

    def endpoint(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[0]}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads, since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def endpoints(folder: Path, programs: Path) -> Iterator[list[int]]:
    """Starts the endpoints, one a bot, and yields their ports."""
    log = folder / "endpoint.log"
    argv = [programs / "endpoint", str(fixtures.BOTS)]
    with services.process(argv, log, stdout=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()
        if not line:
            raise Failure(f"the endpoints did not start:\n{services.tail(log)}")
        yield json.loads(line)


def run_rounds(bench: Bench) -> dict[str, list[Measurement]]:
    """Every candidate once a round; each round begins with another one."""
    measured = {candidate: [] for candidate in CANDIDATES}
    for number in range(ROUNDS):
        first = number % len(CANDIDATES)
        for candidate in CANDIDATES[first:] + CANDIDATES[:first]:
            events = SEQUENTIAL_EVENTS if candidate == "sequential" else EVENTS
            measurement = bench.measure(candidate, events)
            measured[candidate].append(measurement)
            speed = f"{measurement.events_per_second:>9,.0f} events/s"
            print(f"round {number + 1}: {candidate:<10} {speed}", flush=True)
    return measured


def print_table(measured: dict[str, list[Measurement]]) -> None:
    speed = {name: [one.events_per_second for one in all_rounds] for name, all_rounds in measured.items()}
    cpu = {name: [one.cpu_seconds_per_1000 for one in all_rounds] for name, all_rounds in measured.items()}

    def line(title: str, cells: Iterator[str]) -> None:
        print(f"{title:<24}" + "".join(f"{cell:>18}" for cell in cells))

    print()
    line("events/s", CANDIDATES)
    for number in range(ROUNDS):
        line(f"  round {number + 1}", (f"{speed[name][number]:,.0f}" for name in CANDIDATES))
    line("  median", (f"{statistics.median(speed[name]):,.0f}" for name in CANDIDATES))
    line("  min to max", (f"{min(speed[name]):,.0f} to {max(speed[name]):,.0f}" for name in CANDIDATES))
    line("CPU s/1000, median", (f"{statistics.median(cpu[name]):.3f}" for name in CANDIDATES))
    line("  min to max", (f"{min(cpu[name]):.3f} to {max(cpu[name]):.3f}" for name in CANDIDATES))
    print()
    for other in CANDIDATES[1:]:
        rounds = [ours / theirs for ours, theirs in zip(speed["outhook"], speed[other])]
        ratio = statistics.median(speed["outhook"]) / statistics.median(speed[other])
        print(f"outhook/{other:<10} {ratio:8.2f}   (rounds: {min(rounds):.2f} to {max(rounds):.2f})")


def quiet_environment() -> None:
    """Nothing from the caller's environment may steer a candidate: proxies, log filters, configuration."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OUTHOOK__") or name == "RUST_LOG":
            del os.environ[name]


@contextlib.contextmanager
def surroundings() -> Iterator[tuple[Path, str, str]]:
    """A folder, the URL of a database server and that of a broker, which are gone when the block ends."""
    quiet_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outhook-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        yield folder, stack.enter_context(services.postgres(folder)), stack.enter_context(services.rabbitmq(folder))


def main(programs: Path) -> None:
    with surroundings() as (folder, server_url, broker_url), endpoints(folder, programs) as ports:
        measured = run_rounds(Bench(folder, programs, server_url, broker_url, ports))
    print_table(measured)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
