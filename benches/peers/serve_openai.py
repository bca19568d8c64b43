"""Does OpenAI's Python client get along with llm-serve?

    llm-serve serve --model DIR --port 8080
    python serve_openai.py --url http://127.0.0.1:8080 [--key KEY] [--model NAME]

Every call of the API that the server has goes through the real client (PyPI: openai), which parses the replies into its own types.
The text does not matter, any model with a context of 2048 tokens will do, a random one too: what is checked is form, and what a grammar guarantees. Prints a table;
the exit status is 1 if a call failed.
"""

import argparse
import base64
import json
import math
import struct
import sys
import zlib

import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Skip(Exception):
    """The server's model cannot do that."""


class Peer:
    def __init__(self, args):
        self.client = openai.OpenAI(base_url=args.url.rstrip("/") + "/v1", api_key=args.key, max_retries=0, timeout=300)
        self.card = next(m for m in self.client.models.list() if args.model in (None, m.id))
        self.model = self.card.id

    def chat(self, content="Hello", **more):
        more.setdefault("max_tokens", 24)
        return self.client.chat.completions.create(model=self.model, messages=[{"role": "user", "content": content}], **more)


PICK = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "dark": {"type": "boolean"}},
    "required": ["color", "dark"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "pick", "description": "Pick a color.", "parameters": PICK}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}},
]


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


@check
def models_list(peer):
    assert peer.card.object == "model" and peer.card.created > 0
    assert peer.client.models.retrieve(peer.model).id == peer.model


@check
def chat(peer):
    reply = peer.chat()
    choice = reply.choices[0]
    assert reply.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 24
    assert usage.prompt_tokens_details.cached_tokens >= 0 and usage.completion_tokens_details.reasoning_tokens >= 0


@check
def chat_stream(peer):
    chunks = list(peer.chat(stream=True, stream_options={"include_usage": True}, seed=1, temperature=1))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    whole = peer.chat(seed=1, temperature=1).choices[0].message.content
    assert text == whole, (text, whole)


@check
def chat_n_and_seed(peer):
    texts = [[c.message.content for c in peer.chat(n=3, seed=5, temperature=1.2).choices] for _ in range(2)]
    assert len(texts[0]) == 3 and texts[0] == texts[1]


@check
def chat_parameters(peer):
    peer.chat(
        temperature=0.7, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -100}, stop=["\n\n"], user="u",
        max_completion_tokens=8, max_tokens=openai.NOT_GIVEN, store=False, metadata={"a": "b"}, reasoning_effort="low",
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "min_tokens": 1, "priority": 1, "ignore_eos": False},
    )


@check
def chat_logprobs(peer):
    choice = peer.chat(logprobs=True, top_logprobs=3, max_tokens=6).choices[0]
    for token in choice.logprobs.content or []:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3 and isinstance(token.bytes, list)
        assert token.top_logprobs[0].logprob >= token.logprob - 1e-6


@check
def tools_auto(peer):
    choice = peer.chat("Pick red.", tools=TOOLS, tool_choice="auto").choices[0]
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    assert bool(choice.message.tool_calls) == (choice.finish_reason == "tool_calls") or choice.finish_reason == "length"


@check
def tools_none(peer):
    assert not peer.chat("Pick red.", tools=TOOLS, tool_choice="none").choices[0].message.tool_calls


@check
def tools_required(peer):
    choice = peer.chat("Pick.", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1, seed=2, max_tokens=400).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.tool_calls[0].function.name in ("pick", "stop")


@check
def tools_named(peer):
    named = {"type": "function", "function": {"name": "pick"}}
    choice = peer.chat("Pick.", tools=TOOLS, tool_choice=named, temperature=1, seed=3, max_tokens=400).choices[0]
    call = choice.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "pick" and arguments["color"] in ("red", "green") and isinstance(arguments["dark"], bool)
    return call


@check
def tools_parallel_stream(peer):
    """Calls of a stream take indices 0, 1, ..; the client's own accumulator has to get along with them."""
    calls = {}
    with peer.client.chat.completions.stream(
        model=peer.model, messages=[{"role": "user", "content": "Pick twice."}], tools=TOOLS, tool_choice="required", temperature=1, seed=4, max_tokens=1500
    ) as stream:
        for event in stream:
            if event.type == "chunk":
                for delta in (event.chunk.choices[0].delta.tool_calls or []) if event.chunk.choices else []:
                    if delta.id:
                        assert delta.index == len(calls), (delta, calls)
                    calls.setdefault(delta.index, "")
                    calls[delta.index] += delta.function.arguments or ""
        message = stream.get_final_completion().choices[0]
    if message.finish_reason == "tool_calls":
        assert len(message.message.tool_calls) == len(calls) >= 1
        for text in calls.values():
            json.loads(text)


@check
def tools_conversation(peer):
    call = tools_named(peer)
    history = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Pick."}]},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    reply = peer.client.chat.completions.create(model=peer.model, messages=history, tools=TOOLS, tool_choice="none", max_tokens=8)
    assert reply.choices[0].message.content is not None


@check
def response_format_schema(peer):
    shape = {"type": "json_schema", "json_schema": {"name": "pick", "strict": True, "schema": PICK}}
    value = json.loads(peer.chat("Pick.", response_format=shape, temperature=1, seed=1, max_tokens=300).choices[0].message.content)
    assert value["color"] in ("red", "green")


@check
def response_format_object(peer):
    choice = peer.chat("JSON, please.", response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


@check
def structured_outputs(peer):
    def ask(**body):
        return peer.chat("x", temperature=1, seed=1, max_tokens=60, extra_body=body).choices[0].message.content

    assert ask(guided_choice=["yes", "no"]) in ("yes", "no")
    assert ask(structured_outputs={"regex": "[0-9]{3}"}).isdigit()
    assert ask(guided_grammar='start: "a" "b"') == "ab"
    assert json.loads(ask(guided_json=PICK, max_tokens=300))["color"] in ("red", "green")


@check
def completions(peer):
    reply = peer.client.completions.create(model=peer.model, prompt=["one two", "three"], max_tokens=6, n=2, logprobs=2, seed=1, temperature=1)
    assert [c.index for c in reply.choices] == [0, 1, 2, 3]
    assert all(len(c.logprobs.tokens) == len(c.logprobs.token_logprobs) for c in reply.choices)


@check
def completions_stream(peer):
    arguments = {"model": peer.model, "prompt": "one two", "max_tokens": 8}
    text = "".join(c.choices[0].text for c in peer.client.completions.create(stream=True, **arguments) if c.choices)
    assert text == peer.client.completions.create(**arguments).choices[0].text


@check
def completions_echo_and_best_of(peer):
    reply = peer.client.completions.create(model=peer.model, prompt="one two three", max_tokens=0, echo=True, logprobs=1)
    logprobs = reply.choices[0].logprobs
    assert reply.choices[0].text == "one two three" and logprobs.token_logprobs[0] is None
    reply = peer.client.completions.create(model=peer.model, prompt="one", max_tokens=4, best_of=4, n=2, temperature=1)
    assert len(reply.choices) == 2


@check
def completions_suffix(peer):
    try:
        peer.client.completions.create(model=peer.model, prompt="def f():", suffix="return x", max_tokens=4)
    except openai.BadRequestError as error:
        assert error.param == "suffix", error
        raise Skip("no marks for gaps in the vocabulary") from None


@check
def embeddings(peer):
    # The client asks for base64 by itself and decodes it.
    reply = peer.client.embeddings.create(model=peer.model, input=["one", "two"])
    assert len(reply.data) == 2 and abs(math.fsum(x * x for x in reply.data[0].embedding) - 1) < 1e-3
    plain = peer.client.embeddings.create(model=peer.model, input="one", encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-4 for a, b in zip(plain, reply.data[0].embedding))
    short = peer.client.embeddings.create(model=peer.model, input="one", dimensions=8).data[0].embedding
    assert len(short) == 8 and abs(math.fsum(x * x for x in short) - 1) < 1e-3


@check
def images(peer):
    def part(kind, data):
        return zlib.crc32(kind + data).to_bytes(4, "big").join([struct.pack(">I", len(data)) + kind + data, b""])

    pixels = zlib.compress(b"".join(b"\0" + b"\xff\0\0" * 32 for _ in range(32)))
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)) + part(b"IDAT", pixels) + part(b"IEND", b"")
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    if "image" not in (peer.card.model_extra or {}).get("input_modalities", []):
        assert refused(openai.BadRequestError, lambda: peer.chat(content)).status_code == 400
        raise Skip("this model reads text only, and says so")
    assert peer.chat(content).choices


@check
def errors(peer):
    error = refused(openai.NotFoundError, lambda: peer.client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "x"}]))
    assert error.code == "model_not_found" and error.param == "model"
    error = refused(openai.BadRequestError, lambda: peer.chat(temperature=3))
    assert error.param == "temperature" and error.type == "invalid_request_error"
    error = refused(openai.BadRequestError, lambda: peer.chat(extra_body={"temprature": 1}))
    assert error.code == "unknown_parameter"
    error = refused(openai.BadRequestError, lambda: peer.chat(max_tokens=10**9))
    assert error.code == "context_length_exceeded"
    error = refused(openai.BadRequestError, lambda: peer.chat(extra_body={"guided_regex": "(a"}))
    assert error.code == "invalid_grammar"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", help="default: the first that is served")
    peer = Peer(parser.parse_args())
    failed = 0
    for function in CHECKS:
        name = function.__name__
        try:
            function(peer)
            print(f"{name:32} ok")
        except Skip as why:
            print(f"{name:32} -   {why}")
        except Exception as error:  # every failure is a row of the table
            failed += 1
            print(f"{name:32} FAILED {type(error).__name__}: {error}")
    print(f"openai {openai.__version__}: {len(CHECKS) - failed} of {len(CHECKS)} fine")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
