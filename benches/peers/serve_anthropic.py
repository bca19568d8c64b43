"""Does Anthropic's Python client get along with llm-serve?

    llm-serve serve --model DIR --port 8080
    python serve_anthropic.py --url http://127.0.0.1:8080 [--key KEY] [--model NAME]

Every call goes through the real client (PyPI: anthropic), which parses replies and stream events into its own types. Any model will do.
Prints a table; the exit status is 1 if a call failed.
"""

import argparse
import json
import sys
import urllib.request

import anthropic

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Peer:
    def __init__(self, args):
        url = args.url.rstrip("/")
        self.client = anthropic.Anthropic(base_url=url, api_key=args.key, max_retries=0, timeout=300)
        request = urllib.request.Request(url + "/v1/models", headers={"x-api-key": args.key})
        with urllib.request.urlopen(request) as reply:
            self.model = args.model or json.load(reply)["data"][0]["id"]

    def arguments(self, **more):
        # The client's newer versions have no argument for what newer models of Anthropic do not take any more; the API here has it.
        body = {name: more.pop(name) for name in ("temperature", "top_k", "top_p") if name in more}
        return {"model": self.model, "max_tokens": 24, "messages": [{"role": "user", "content": "Hello"}], "extra_body": body, **more}

    def create(self, **more):
        return self.client.messages.create(**self.arguments(**more))


TOOLS = [
    {
        "name": "pick",
        "description": "Pick a color.",
        "input_schema": {
            "type": "object",
            "properties": {"color": {"enum": ["red", "green"]}, "dark": {"type": "boolean"}},
            "required": ["color", "dark"],
            "additionalProperties": False,
        },
    }
]


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


@check
def message(peer):
    reply = peer.create(system="Be short.", temperature=0.5, top_k=20, metadata={"user_id": "u"})
    assert reply.type == "message" and reply.role == "assistant" and reply.model == peer.model
    assert reply.stop_reason in ("end_turn", "max_tokens") and reply.usage.output_tokens <= 24


@check
def blocks_and_system_blocks(peer):
    content = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    peer.create(system=[{"type": "text", "text": "Be short."}], messages=[{"role": "user", "content": content}])


@check
def stream_events(peer):
    kinds = []
    with peer.client.messages.create(**peer.arguments(stream=True)) as stream:
        for event in stream:
            kinds.append(event.type)
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")


@check
def stream_helper(peer):
    with peer.client.messages.stream(**peer.arguments()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(b.text for b in final.content if b.type == "text")
    assert final.usage.output_tokens > 0


@check
def stop_sequences(peer):
    reply = peer.create(stop_sequences=["zzzz", "\n\n\n\n"])
    assert reply.stop_reason in ("end_turn", "max_tokens", "stop_sequence")


@check
def thinking(peer):
    # A model may think although it was not asked to; a random one does.
    peer.create(thinking={"type": "disabled"})
    try:
        reply = peer.create(max_tokens=1100, thinking={"type": "enabled", "budget_tokens": 1024})
        assert all(block.type in ("text", "thinking") for block in reply.content)
    except anthropic.BadRequestError as error:
        # A small model's context may have no room for the smallest budget.
        assert "context" in str(error), error
    error = refused(anthropic.BadRequestError, lambda: peer.create(max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 5}))
    assert "budget_tokens" in str(error)


@check
def tool_named(peer):
    reply = peer.create(tools=TOOLS, tool_choice={"type": "tool", "name": "pick"}, temperature=1, max_tokens=400)
    assert reply.stop_reason == "tool_use", reply
    call = next(block for block in reply.content if block.type == "tool_use")
    assert call.name == "pick" and call.input["color"] in ("red", "green") and isinstance(call.input["dark"], bool)
    return reply, call


@check
def tool_any_and_result(peer):
    reply, call = tool_named(peer)
    peer.create(tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}, temperature=1, max_tokens=400)
    history = [
        {"role": "user", "content": "Pick."},
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "done"}, {"type": "text", "text": "And now?"}]},
    ]
    assert peer.create(tools=TOOLS, tool_choice={"type": "none"}, messages=history).role == "assistant"


@check
def tool_stream(peer):
    arguments = peer.arguments(tools=TOOLS, tool_choice={"type": "tool", "name": "pick"}, temperature=1, max_tokens=400)
    with peer.client.messages.stream(**arguments) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert "input_json" in kinds, kinds
    assert final.content[-1].type == "tool_use" and final.content[-1].input["color"] in ("red", "green")


@check
def tool_auto(peer):
    reply = peer.create(tools=TOOLS, tool_choice={"type": "auto"})
    assert reply.stop_reason in ("end_turn", "max_tokens", "tool_use")


@check
def count_tokens(peer):
    counted = peer.client.messages.count_tokens(model=peer.model, messages=[{"role": "user", "content": "Hello"}], tools=TOOLS).input_tokens
    usage = peer.create(tools=TOOLS).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@check
def errors(peer):
    error = refused(anthropic.NotFoundError, lambda: peer.create(model="no-such-model"))
    assert error.body["error"]["type"] == "not_found_error", error.body
    error = refused(anthropic.BadRequestError, lambda: peer.create(temperature=2))
    assert error.body["error"]["type"] == "invalid_request_error" and "temperature" in error.body["error"]["message"]
    refused(anthropic.BadRequestError, lambda: peer.create(max_tokens=10**9))
    refused(anthropic.BadRequestError, lambda: peer.create(tools=[{"type": "web_search_20250305", "name": "web_search"}]))


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
        except Exception as error:  # every failure is a row of the table
            failed += 1
            print(f"{name:32} FAILED {type(error).__name__}: {error}")
    print(f"anthropic {anthropic.__version__}: {len(CHECKS) - failed} of {len(CHECKS)} fine")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
