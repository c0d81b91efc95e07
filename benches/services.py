"""A private PostgreSQL and a private RabbitMQ, on free ports, in a folder that goes away with them."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import psycopg

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 15


class Failure(Exception):
    """Something that ends the benchmark, said in one sentence."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(
    argv: list, log: Path, stop: signal.Signals = signal.SIGTERM, **options
) -> Iterator[subprocess.Popen]:
    """Runs a program in a process group of its own, which is gone when the block ends."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=options.pop("stdout", output),
            stderr=output,
            start_new_session=True,
            **options,
        )
    try:
        yield child
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.send_signal(stop)
            child.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_until(ready: Callable[[], bool], child: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            raise Failure(f"{child.args[0]} did not start:\n{tail(log)}")
        time.sleep(0.1)


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def newest(pattern: str) -> Path | None:
    """The folder of the highest version, where Debian keeps programs that it wraps or hides."""
    def version(folder: Path) -> list[int]:
        return [int(digits) for digits in "".join(c if c.isdigit() else " " for c in str(folder)).split()]

    return max(Path("/").glob(pattern), key=version, default=None)


def program(name: str, folder: Path | None) -> str:
    found = shutil.which(name, path=folder) if folder else shutil.which(name)
    if not found:
        raise Failure(f"{name} is not installed")
    return found


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Yields the URL of a server, to which a database's name is added. Durability is PostgreSQL's default."""
    programs = newest("usr/lib/postgresql/*/bin")
    data, log, port = folder / "postgres", folder / "postgres.log", free_port()
    data.mkdir()
    account = unprivileged_account(data)
    initdb = [program("initdb", programs), "-D", data, "-U", "outhook", "-A", "trust", "-E", "UTF8"]
    initdb += ["--locale=C", "--no-sync"]
    made = subprocess.run(initdb, cwd=data, capture_output=True, text=True, **account)
    if made.returncode != 0:
        raise Failure(f"initdb failed: {made.stderr}")

    url = f"postgres://outhook@127.0.0.1:{port}"

    def ready() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"{url}/postgres").close()
            return True
        return False

    argv = [program("postgres", programs), "-D", data, "-p", str(port)]
    argv += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    # SIGINT: PostgreSQL's fast shutdown, which does not wait for its clients.
    with process(argv, log, signal.SIGINT, cwd=data, **account) as server:
        wait_until(ready, server, log)
        yield url


def unprivileged_account(data: Path) -> dict:
    """PostgreSQL refuses to run as root; says as whom it runs instead, and gives them the data folder."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = names.get("postgres") or names["nobody"]
    os.chown(data, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Iterator[str]:
    """Yields the AMQP URL of a broker without plugins that shares nothing with an installed one."""
    # Debian's program on the PATH insists on the account `rabbitmq` and its folders; the one below does not.
    programs = newest("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")
    home, log, port, epmd_port = folder / "rabbitmq", folder / "rabbitmq.log", free_port(), free_port()
    home.mkdir()
    (home / "enabled_plugins").write_text("[].\n")
    (home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    environment = {
        **os.environ,
        "HOME": str(home),  # .erlang.cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": "outhook-bench@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
    }
    url = f"amqp://guest:guest@127.0.0.1:{port}/%2f"

    def ready() -> bool:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            pika.BlockingConnection(pika.URLParameters(url)).close()
            return True
        return False

    # Our own port mapper, in the foreground: otherwise Erlang leaves one behind.
    epmd = [program("epmd", None), "-port", str(epmd_port), "-address", "127.0.0.1"]
    with process(epmd, folder / "epmd.log"):
        with process([program("rabbitmq-server", programs)], log, cwd=home, env=environment) as broker:
            wait_until(ready, broker, log)
            yield url
