"""One event at a time: the way Zulip's own worker drains the queue, without the rest of Zulip.

`sequential_worker.py BROKER_URL QUEUE DATABASE_URL`
"""

import hashlib
import json
import signal
import sys
import threading

import pika
import psycopg
import requests
from psycopg.rows import dict_row

PREFETCH = 100
TIMEOUT_S = 10
USER_AGENT = "ZulipOutgoingWebhook/11.4"
READ = 1
REMOVED = (
    "can_access_sender",
    "recipient_type",
    "recipient_type_id",
    "sender_avatar_source",
    "sender_avatar_version",
    "sender_delivery_email",
    "sender_email_address_visibility",
    "sender_is_mirror_dummy",
    "sender_realm_id",
    "sender_recipient_id",
)


def main(broker_url: str, queue: str, database_url: str) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    parameters = pika.URLParameters(broker_url)
    parameters.heartbeat = 0
    with (
        psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as database,
        pika.BlockingConnection(parameters) as broker,
    ):
        channel = broker.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        for delivery, _, body in channel.consume(queue, inactivity_timeout=0.2):
            if stopping.is_set():
                break
            if delivery:
                consume(database, json.loads(body))
                channel.basic_ack(delivery.delivery_tag, multiple=True)
        channel.cancel()


def consume(database: psycopg.Connection, event: dict) -> None:
    """Handles one event: its bot, the bot's services, a call to each, the flag."""
    by_bot = [event["user_profile_id"]]
    bot = database.execute("SELECT * FROM zerver_userprofile WHERE id = %s", by_bot).fetchone()
    services = database.execute("SELECT * FROM zerver_service WHERE user_profile_id = %s", by_bot).fetchall()
    for service in services:
        call(service, bot, event)
    mark_read(database, bot["id"], event["message"]["id"])


def call(service: dict, bot: dict, event: dict) -> None:
    """Makes one call over a new connection and reads the answer; nothing here ever replies."""
    with requests.Session() as session:
        session.headers["User-Agent"] = USER_AGENT
        body = generic_body(service, bot, event)
        response = session.post(service["base_url"], json=body, timeout=TIMEOUT_S)
    response.raise_for_status()
    if not response.json().get("response_not_required"):
        raise NotImplementedError("the benchmark's endpoints do not reply")


def generic_body(service: dict, bot: dict, event: dict) -> dict:
    message = {key: value for key, value in event["message"].items() if key not in REMOVED}
    message["avatar_url"] = avatar_url(event["message"])
    message["content_type"] = "text/x-markdown"
    return {
        "data": event["message"]["content"],
        "message": message,
        "bot_email": bot["email"],
        "bot_full_name": bot["full_name"],
        "token": service["token"],
        "trigger": event["trigger"],
    }


def avatar_url(message: dict) -> str:
    digest = hashlib.md5(message["sender_delivery_email"].lower().encode()).hexdigest()
    version = message["sender_avatar_version"]
    return f"https://secure.gravatar.com/avatar/{digest}?d=identicon&version={version}"


def mark_read(database: psycopg.Connection, bot_id: int, message_id: int) -> None:
    """Sets the flag `read`, if there is a row that does not have it yet."""
    with database.transaction():
        row = database.execute(
            "SELECT id FROM zerver_usermessage"
            " WHERE user_profile_id = %s AND message_id = %s AND flags & %s = 0 FOR UPDATE",
            [bot_id, message_id, READ],
        ).fetchone()
        if row:
            database.execute(
                "UPDATE zerver_usermessage SET flags = flags | %s WHERE id = %s", [READ, row["id"]]
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
