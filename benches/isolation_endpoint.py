"""An endpoint of isolation.py in a process of its own, so that it waits for nobody else's Python. Prints its port.

`isolation_endpoint.py answer` answers every event at once. `GET /count` tells how many messages have arrived;
`POST /take` tells when each arrived first, by the machine's monotonic clock, and forgets them.
`isolation_endpoint.py hang` takes everything and says nothing until the caller has gone.
"""

import asyncio
import contextlib
import json
import re
import resource
import sys
import time

arrived: dict[int, float] = {}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            await reader.readexactly(int(length.group(1)) if length else 0)
            body = said(head, time.monotonic())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    writer.close()


def said(head: bytes, now: float) -> bytes:
    if head.startswith(b"GET /count "):
        return b"%d" % len(arrived)
    if head.startswith(b"POST /take "):
        taken = json.dumps(arrived)
        arrived.clear()
        return taken.encode()
    # msg_<bot>_<message>_<replay>_<service>
    message = re.search(rb"(?i)\r\nwebhook-id: *msg_\d+_(\d+)_", head).group(1)
    arrived.setdefault(int(message), now)
    return b"{}"


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the request, so that it was surely sent."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()


async def main(behaviour: str) -> None:
    client = {"answer": answer, "hang": hang}[behaviour]
    server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # Each call that hangs is an open file.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1]))
