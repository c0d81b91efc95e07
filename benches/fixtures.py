"""What all candidates are given: bots with their services, the bots' message rows, and the events."""

import json
from collections.abc import Iterator

BOTS = 100
CONVERSATIONS = 20  # of each bot
DIRECT_CONVERSATIONS = 5  # of these
FIRST_BOT = 1001
FIRST_MESSAGE = 900_001
ASKER = 31

# ---------------------------------------------------------------------------------------------------------
# The rows. Columns are Zulip's; what is named here and not in the table is left out, so a table may have
# fewer columns. One that needs more says so when this runs: add it here.
# Parameters: bots, ports (one a bot), first_bot, events, first_message, asker.
# ---------------------------------------------------------------------------------------------------------
ROWS = """
INSERT INTO zerver_realm OVERRIDING SYSTEM VALUE
SELECT filled.* FROM jsonb_populate_record(NULL::zerver_realm, jsonb_build_object(
    'id', 2, 'string_id', 'acme', 'name', 'Acme', 'deactivated', false, 'date_created', now()
)) AS filled;

INSERT INTO zerver_userprofile OVERRIDING SYSTEM VALUE
SELECT filled.* FROM jsonb_populate_record(NULL::zerver_userprofile, jsonb_build_object(
    'id', %(asker)s, 'realm_id', 2, 'recipient_id', NULL,
    'delivery_email', 'rosa@example.org', 'email', 'user31@chat.example.org', 'full_name', 'Rosa Lind',
    'is_bot', false, 'bot_type', NULL, 'bot_owner_id', NULL, 'api_key', md5('rosa'),
    'is_active', true, 'role', 400, 'rate_limits', '', 'avatar_source', 'G', 'avatar_version', 1,
    'default_language', 'en', 'email_address_visibility', 1, 'long_term_idle', false, 'date_joined', now()
)) AS filled;

INSERT INTO zerver_userprofile OVERRIDING SYSTEM VALUE
SELECT filled.*
FROM generate_series(0, %(bots)s - 1) AS n,
LATERAL jsonb_populate_record(NULL::zerver_userprofile, jsonb_build_object(
    'id', %(first_bot)s + n, 'realm_id', 2, 'recipient_id', NULL,
    'delivery_email', format('bench-%%s-bot@acme.chat.example.org', n),
    'email', format('bench-%%s-bot@acme.chat.example.org', n), 'full_name', format('Bench Bot %%s', n),
    'is_bot', true, 'bot_type', 3, 'bot_owner_id', %(asker)s, 'api_key', md5(format('key %%s', n)),
    'is_active', true, 'role', 400, 'rate_limits', '', 'avatar_source', 'G', 'avatar_version', 1,
    'default_language', 'en', 'email_address_visibility', 1, 'long_term_idle', false, 'date_joined', now()
)) AS filled;

INSERT INTO zerver_service OVERRIDING SYSTEM VALUE
SELECT filled.*
FROM generate_series(0, %(bots)s - 1) AS n,
LATERAL jsonb_populate_record(NULL::zerver_service, jsonb_build_object(
    'id', n + 1, 'name', format('bench-%%s', n), 'user_profile_id', %(first_bot)s + n,
    'base_url', format('http://127.0.0.1:%%s/bot', (%(ports)s::integer[])[n + 1]),
    'token', md5(format('token %%s', n)), 'interface', 1
)) AS filled;

INSERT INTO zerver_usermessage OVERRIDING SYSTEM VALUE
SELECT filled.*
FROM generate_series(0, %(events)s - 1) AS n,
LATERAL jsonb_populate_record(NULL::zerver_usermessage, jsonb_build_object(
    'id', n + 1, 'user_profile_id', %(first_bot)s + n %% %(bots)s,
    'message_id', %(first_message)s + n, 'flags', 8
)) AS filled;
"""

UNFLAGGED = "SELECT count(*) FROM zerver_usermessage WHERE flags & 1 = 0"


def rows(events: int, ports: list[int]) -> dict:
    """The parameters of ROWS."""
    return {
        "bots": BOTS,
        "ports": ports,
        "first_bot": FIRST_BOT,
        "events": events,
        "first_message": FIRST_MESSAGE,
        "asker": ASKER,
    }


def event_bodies(events: int) -> Iterator[bytes]:
    """Events as Zulip queues them, about 1 kB each; bots take turns, and so do a bot's conversations."""
    for n in range(events):
        yield json.dumps(event(n), separators=(",", ":"), ensure_ascii=False).encode()


def event(n: int) -> dict:
    bot, conversation = n % BOTS, n // BOTS % CONVERSATIONS
    direct = conversation < DIRECT_CONVERSATIONS
    where = direct_conversation(bot, conversation) if direct else topic(bot, conversation)
    mention = f"@**Bench Bot {bot}**"
    rendered_mention = f'<span class="user-mention" data-user-id="{FIRST_BOT + bot}">@Bench Bot {bot}</span>'
    text = f"soup {n}? Yesterday’s was fine, but the queue went twice round the house."
    message = {
        "id": FIRST_MESSAGE + n,
        "content": f"{mention} {text}",
        "timestamp": 1_767_225_600 + n // 50,
        "client": "website",
        "sender_realm_id": 2,
        "topic_links": [],
        "rendered_content": f"<p>{rendered_mention} {text}</p>",
        "is_me_message": False,
        "reactions": [],
        "submessages": [],
        "sender_realm_str": "acme",
        "sender_avatar_source": "G",
        "sender_avatar_version": 1,
        "sender_is_mirror_dummy": False,
        "sender_email_address_visibility": 1,
        **where,
    }
    trigger = "direct_message" if direct else "mention"
    return {"message": message, "trigger": trigger, "user_profile_id": FIRST_BOT + bot}


def sender(user_id: int) -> dict:
    return {
        "sender_id": user_id,
        "sender_recipient_id": 60_000 + user_id,
        "sender_full_name": "Rosa Lind" if user_id == ASKER else f"Colleague {user_id}",
        "sender_email": f"user{user_id}@chat.example.org",
        "sender_delivery_email": f"colleague-{user_id}@example.org",
    }


def topic(bot: int, conversation: int) -> dict:
    return {
        **sender(ASKER),
        "type": "stream",
        "recipient_type": 2,
        "recipient_type_id": 7,
        "recipient_id": 44,
        "subject": f"kitchen {bot}-{conversation}",
        "display_recipient": "food",
        "stream_id": 7,
    }


def direct_conversation(bot: int, conversation: int) -> dict:
    """A conversation between the bot and a person, another one for each conversation."""
    person = sender(ASKER + conversation)
    return {
        **person,
        "type": "private",
        "recipient_type": 1,
        "recipient_type_id": FIRST_BOT + bot,
        "recipient_id": 50_000 + bot,
        "subject": "",
        "display_recipient": [
            {
                "id": FIRST_BOT + bot,
                "email": f"bench-{bot}-bot@acme.chat.example.org",
                "full_name": f"Bench Bot {bot}",
                "is_mirror_dummy": False,
            },
            {
                "id": person["sender_id"],
                "email": person["sender_email"],
                "full_name": person["sender_full_name"],
                "is_mirror_dummy": False,
            },
        ],
    }
