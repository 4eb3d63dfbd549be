"""Asks OpenAI through its Python SDK, as any program would.

The scenarios to run are its arguments. For each exchange it prints one line of JSON: scenario, way, the id of the request,
and the usage as the SDK reports it. Where it asks and whom it trusts is left to the SDK.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time

import openai

# What the provider is to do: it stands in the model's name.
SCENARIOS = {
    "plain": "gpt-test+output-37",
    "cache": "gpt-test+cache-write-310+cache-read-4200+output-52",
    "reasoning": "gpt-test+output-640+reasoning-590",
    "slow": "gpt-test+deltas-20+delay-5",
    "long": "gpt-test+deltas-3000+delta-bytes-60",
    "severed": "gpt-test+output-20000+deltas-3000+delay-1",
    "large": "gpt-test+output-6000",
    "refused": "gpt-test",
    "too_large": "gpt-test",
    "identity": "gpt-test+encoding-identity",
    "gzip": "gpt-test+encoding-gzip",
    "deflate": "gpt-test+encoding-deflate",
    "br": "gpt-test+encoding-br",
    "zstd": "gpt-test+encoding-zstd",
}
# What is asked for and not answered.
REFUSED = ("refused", "too_large")
LARGE = "word " * 20_000
AT_ONCE = 20
CHAT = {"messages": [{"role": "user", "content": "Say something."}]}
PROMPT = {"prompt": "Say something."}
INPUT = {"input": "Say something."}
ASKING = {"stream": True, "stream_options": {"include_usage": True}}
DECLINING = {"stream": True, "stream_options": {"include_usage": False}}

blocking = openai.OpenAI()
client = openai.AsyncOpenAI()
# No two exchanges use the same.
inputs = itertools.count(100)


def model(scenario):
    return f"{SCENARIOS[scenario]}+input-{next(inputs)}"


def say(scenario, way, id, usage, text_length=None):
    usage = usage and usage.model_dump()
    line = {"scenario": scenario, "way": way, "id": id, "usage": usage, "text_length": text_length}
    print(json.dumps(line), flush=True)


def usage_of(chunk):
    """Where an event or a chunk tells it, if it does."""
    return getattr(chunk, "usage", None) or getattr(getattr(chunk, "response", None), "usage", None)


def say_refused(error, way, status, message, body, begun):
    said = {"status": status, "message": message, "body": body, "seconds": time.monotonic() - begun}
    print(json.dumps({"refused": error, "way": way, **said}), flush=True)


@contextlib.contextmanager
def telling(scenario, way):
    """Where a refusal is what is expected, one line of JSON tells of it."""
    begun = time.monotonic()
    try:
        yield
    except openai.APIStatusError as error:
        if scenario not in REFUSED:
            raise
        say_refused(type(error).__name__, way, error.status_code, error.message, error.body, begun)


def whole(scenario, way, create, **options):
    with telling(scenario, way):
        answer = create(model=model(scenario), **options)
        say(scenario, way, answer._request_id, answer.usage)


def streamed(scenario, way, create, **options):
    with telling(scenario, way):
        usage = None
        with create(model=model(scenario), **options) as chunks:
            for chunk in chunks:
                usage = usage_of(chunk) or usage
            say(scenario, way, chunks.response.headers["x-request-id"], usage)


def followed(scenario, input):
    """By the SDK's own reader of events, which tells the response's id alone."""
    with telling(scenario, "responses_followed"):
        with blocking.responses.stream(model=model(scenario), **input) as events:
            response = events.get_final_response()
        say(scenario, "responses_followed", response.id, response.usage)


async def whole_async(scenario, way, create, **options):
    with telling(scenario, way):
        answer = await create(model=model(scenario), **options)
        say(scenario, way, answer._request_id, answer.usage)


async def streamed_async(scenario, way, create, **options):
    with telling(scenario, way):
        usage = None
        async with await create(model=model(scenario), **options) as chunks:
            async for chunk in chunks:
                usage = usage_of(chunk) or usage
            say(scenario, way, chunks.response.headers["x-request-id"], usage)


async def followed_async(scenario, input):
    with telling(scenario, "responses_followed_async"):
        async with client.responses.stream(model=model(scenario), **input) as events:
            response = await events.get_final_response()
        say(scenario, "responses_followed_async", response.id, response.usage)


def asked(scenario):
    """A request of each kind."""
    text = LARGE if scenario == "too_large" else "Say something."
    return {"messages": [{"role": "user", "content": text}]}, {"prompt": text}, {"input": text}


def every_way(scenario):
    chat, prompt, input = asked(scenario)
    whole(scenario, "chat", blocking.chat.completions.create, **chat)
    streamed(scenario, "chat_streamed", blocking.chat.completions.create, **chat, **ASKING)
    whole(scenario, "completions", blocking.completions.create, **prompt)
    streamed(scenario, "completions_streamed", blocking.completions.create, **prompt, **ASKING)
    whole(scenario, "responses", blocking.responses.create, **input)
    streamed(scenario, "responses_streamed", blocking.responses.create, stream=True, **input)
    followed(scenario, input)


async def every_way_async(scenario):
    chat, prompt, input = asked(scenario)
    await whole_async(scenario, "chat_async", client.chat.completions.create, **chat)
    await streamed_async(scenario, "chat_streamed_async", client.chat.completions.create, **chat, **ASKING)
    await whole_async(scenario, "completions_async", client.completions.create, **prompt)
    await streamed_async(scenario, "completions_streamed_async", client.completions.create, **prompt, **ASKING)
    await whole_async(scenario, "responses_async", client.responses.create, **input)
    await streamed_async(scenario, "responses_streamed_async", client.responses.create, stream=True, **input)
    await followed_async(scenario, input)


async def embeddings():
    whole("plain", "embeddings", blocking.embeddings.create, **INPUT)
    await whole_async("plain", "embeddings_async", client.embeddings.create, **INPUT)


async def count():
    """Counting costs nothing."""
    answer = blocking.responses.input_tokens.count(model="gpt-test+input-77", **INPUT)
    say("count", "responses", answer._request_id, answer)
    answer = await client.responses.input_tokens.count(model="gpt-test+input-77", **INPUT)
    say("count", "responses_async", answer._request_id, answer)


def say_of(way, response):
    """On a WebSocket one request carries many responses; the model's name tells them apart."""
    usage = response.usage.model_dump()
    print(json.dumps({"scenario": "socket", "way": way, "id": response.id, "usage": usage, "model": response.model}))


def turns():
    """A warm-up, then one turn after another."""
    yield {"model": model("plain"), "generate": False, "input": []}
    for scenario in ("plain", "cache", "reasoning", "slow", "long"):
        yield {"model": model(scenario), **INPUT}


async def socket():
    with blocking.responses.connect() as connection:
        following = {}
        for turn in turns():
            connection.response.create(**turn, **following)
            while (event := connection.recv()).type != "response.completed":
                pass
            say_of("socket", event.response)
            following = {"previous_response_id": event.response.id}
    async with client.responses.connect() as connection:
        following = {}
        for turn in turns():
            await connection.response.create(**turn, **following)
            while (event := await connection.recv()).type != "response.completed":
                pass
            say_of("socket_async", event.response)
            following = {"previous_response_id": event.response.id}


async def at_once():
    chat, responses = client.chat.completions.create, client.responses.create
    ways = itertools.cycle([
        lambda: whole_async("slow", "chat_async", chat, **CHAT),
        lambda: streamed_async("slow", "chat_streamed_async", chat, **CHAT, **ASKING),
        lambda: streamed_async("slow", "responses_streamed_async", responses, stream=True, **INPUT),
    ])
    await asyncio.gather(*(way() for way in itertools.islice(ways, AT_ONCE)))


def text_of(choice):
    """What a chunk of a chat or of a completion says."""
    return choice.text if hasattr(choice, "text") else choice.delta.content or ""


def read_along(scenario, way, create, **options):
    """As programs do that have asked for no usage: every chunk has a choice."""
    text, usage = "", None
    with create(model=model(scenario), **options) as chunks:
        for chunk in chunks:
            text += text_of(chunk.choices[0])
            usage = usage_of(chunk) or usage
        say(scenario, way, chunks.response.headers["x-request-id"], usage, len(text))


async def read_along_async(scenario, way, create, **options):
    text, usage = "", None
    async with await create(model=model(scenario), **options) as chunks:
        async for chunk in chunks:
            text += text_of(chunk.choices[0])
            usage = usage_of(chunk) or usage
        say(scenario, way, chunks.response.headers["x-request-id"], usage, len(text))


async def unasked():
    for scenario in ("plain", "cache", "slow", "long"):
        chat, completions = blocking.chat.completions.create, blocking.completions.create
        read_along(scenario, "chat", chat, stream=True, **CHAT)
        read_along(scenario, "chat_declined", chat, **DECLINING, **CHAT)
        read_along(scenario, "completions", completions, stream=True, **PROMPT)
        chat, completions = client.chat.completions.create, client.completions.create
        await read_along_async(scenario, "chat_async", chat, stream=True, **CHAT)
        await read_along_async(scenario, "chat_declined_async", chat, **DECLINING, **CHAT)
        await read_along_async(scenario, "completions_async", completions, stream=True, **PROMPT)


async def severed():
    """The budget ends in the middle of what is written, which is no error."""
    with blocking.chat.completions.create(model=model("severed"), **CHAT, **ASKING) as chunks:
        text, reason, usage = "", None, None
        for chunk in chunks:
            text += "".join(text_of(choice) for choice in chunk.choices)
            reason = next((choice.finish_reason for choice in chunk.choices), None) or reason
            usage = usage_of(chunk) or usage
        line = {"scenario": "severed", "way": "chat", "id": chunks.response.headers["x-request-id"]}
        print(json.dumps({**line, "usage": {**usage.model_dump(), "stop_reason": reason, "text": len(text)}}), flush=True)


async def severed_responses():
    with blocking.responses.create(model=model("severed"), stream=True, **INPUT) as events:
        for event in events:
            pass
        response = event.response
        reason = response.incomplete_details.reason
        usage = {**response.usage.model_dump(), "stop_reason": reason, "text": len(response.output_text)}
        line = {"scenario": "severed", "way": "responses", "id": events.response.headers["x-request-id"]}
        print(json.dumps({**line, "usage": usage}), flush=True)


async def refused():
    """The first request uses up the budget; a socket is not opened, and the second request is refused."""
    whole("large", "chat", blocking.chat.completions.create, **CHAT)
    begun = time.monotonic()
    try:
        with blocking.responses.connect():
            pass
    except Exception as error:
        say_refused(type(error).__name__, "socket", 426, str(error), None, begun)
    whole("refused", "chat", blocking.chat.completions.create, **CHAT)


def say_failed(way, event, begun):
    failed = event.model_dump()
    say_refused(event.type, way, 101, failed["response"]["error"]["message"], failed, begun)


async def too_large_socket():
    """On a socket that is open already."""
    begun = time.monotonic()
    with blocking.responses.connect() as connection:
        connection.response.create(model=model("too_large"), input=LARGE)
        say_failed("socket", connection.recv(), begun)
    begun = time.monotonic()
    async with client.responses.connect() as connection:
        await connection.response.create(model=model("too_large"), input=LARGE)
        say_failed("socket_async", await connection.recv(), begun)


async def main():
    special = {
        "embeddings": embeddings,
        "count": count,
        "socket": socket,
        "at_once": at_once,
        "unasked": unasked,
        "refused": refused,
        "too_large_socket": too_large_socket,
        "severed": severed,
        "severed_responses": severed_responses,
    }
    for name in sys.argv[1:]:
        if name in special:
            await special[name]()
            continue
        every_way(name)
        await every_way_async(name)


asyncio.run(main())
