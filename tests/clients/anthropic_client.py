"""Asks Anthropic through its Python SDK, as any program would.

The scenarios to run are its arguments. For each exchange it prints one line of JSON: scenario, way, the id of the request,
and the usage as the SDK reports it. Where it asks and whom it trusts is left to the SDK.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time

import anthropic

TOOL = {"name": "note", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}}}
CACHED = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]

# What the provider is to do, which stands in the model's name, and what else the request says.
SCENARIOS = {
    "plain": ("claude-test+output-37", {}),
    "cache": ("claude-test+cache-write-310+cache-write-1h-110+cache-read-4200+output-52", {"system": CACHED}),
    "thinking": ("claude-test+output-640+reasoning-590", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    "tools": ("claude-test+output-81+tool-use", {"tools": [TOOL]}),
    "slow": ("claude-test+deltas-20+delay-5", {}),
    "long": ("claude-test+deltas-3000+delta-bytes-60", {}),
    "large": ("claude-test+output-6000", {}),
    "refused": ("claude-test", {}),
    "too_large": ("claude-test", {"messages": [{"role": "user", "content": "word " * 20_000}]}),
    "severed": ("claude-test+output-20000+deltas-3000+delay-1", {}),
    "identity": ("claude-test+encoding-identity", {}),
    "gzip": ("claude-test+encoding-gzip", {}),
    "deflate": ("claude-test+encoding-deflate", {}),
    "br": ("claude-test+encoding-br", {}),
    "zstd": ("claude-test+encoding-zstd", {}),
}
# What is asked for and not answered.
REFUSED = ("refused", "too_large")
AT_ONCE = 20

blocking = anthropic.Anthropic()
client = anthropic.AsyncAnthropic()
# No two exchanges use the same.
inputs = itertools.count(100)


def request(scenario):
    model, options = SCENARIOS[scenario]
    messages = [{"role": "user", "content": "Say something."}]
    return {"model": f"{model}+input-{next(inputs)}", "max_tokens": 2048, "messages": messages, **options}


def say(scenario, way, id, usage):
    print(json.dumps({"scenario": scenario, "way": way, "id": id, "usage": usage}), flush=True)


@contextlib.contextmanager
def telling(scenario, way):
    """Where a refusal is what is expected, one line of JSON tells of it."""
    begun = time.monotonic()
    try:
        yield
    except anthropic.APIStatusError as error:
        if scenario not in REFUSED:
            raise
        seconds = time.monotonic() - begun
        said = {"status": error.status_code, "message": error.message, "body": error.body, "seconds": seconds}
        print(json.dumps({"refused": type(error).__name__, "way": way, **said}), flush=True)


def sum_up(usage, event):
    """What a program that reads events itself makes of them."""
    if event.type == "message_start":
        usage.update(event.message.usage.model_dump())
    if event.type == "message_delta":
        usage.update(event.usage.model_dump(exclude_none=True))


def create(scenario):
    with telling(scenario, "create"):
        message = blocking.messages.create(**request(scenario))
        say(scenario, "create", message._request_id, message.usage.model_dump())


def stream(scenario):
    with telling(scenario, "stream"):
        with blocking.messages.stream(**request(scenario)) as events:
            say(scenario, "stream", events.request_id, events.get_final_message().usage.model_dump())


def events(scenario):
    with telling(scenario, "events"):
        usage = {}
        with blocking.messages.create(stream=True, **request(scenario)) as events:
            for event in events:
                sum_up(usage, event)
            say(scenario, "events", events.response.headers["request-id"], usage)


async def create_async(scenario):
    with telling(scenario, "create_async"):
        message = await client.messages.create(**request(scenario))
        say(scenario, "create_async", message._request_id, message.usage.model_dump())


async def stream_async(scenario):
    with telling(scenario, "stream_async"):
        async with client.messages.stream(**request(scenario)) as events:
            message = await events.get_final_message()
            say(scenario, "stream_async", events.request_id, message.usage.model_dump())


async def events_async(scenario):
    with telling(scenario, "events_async"):
        usage = {}
        async with await client.messages.create(stream=True, **request(scenario)) as events:
            async for event in events:
                sum_up(usage, event)
            say(scenario, "events_async", events.response.headers["request-id"], usage)


async def count():
    """Counting costs nothing."""
    counted = {"model": "claude-test+input-77", "messages": [{"role": "user", "content": "Say something."}]}
    answer = blocking.messages.count_tokens(**counted)
    say("count", "create", answer._request_id, answer.model_dump())
    answer = await client.messages.count_tokens(**counted)
    say("count", "create_async", answer._request_id, answer.model_dump())


async def at_once():
    ways = itertools.cycle([create_async, stream_async, events_async])
    await asyncio.gather(*(way("slow") for way in itertools.islice(ways, AT_ONCE)))


def severed():
    """The budget ends in the middle of what is written, which is no error."""
    with blocking.messages.stream(**request("severed")) as events:
        message = events.get_final_message()
        usage = {**message.usage.model_dump(), "stop_reason": message.stop_reason, "text": len(message.content[0].text)}
        say("severed", "stream", events.request_id, usage)


async def refused():
    """The first request uses up the budget; the second is refused."""
    create("large")
    create("refused")


async def main():
    special = {"count": count, "at_once": at_once, "refused": refused}
    for name in sys.argv[1:]:
        if name == "severed":
            severed()
            continue
        if name in special:
            await special[name]()
            continue
        for way in (create, stream, events):
            way(name)
        for way in (create_async, stream_async, events_async):
            await way(name)


asyncio.run(main())
