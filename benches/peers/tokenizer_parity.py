#!/usr/bin/env python3
"""Does Python read the tokenizers we write? Compares ids, text and chat rendering with transformers and tokenizers.

    pip install tokenizers==0.23.2 transformers jinja2
    python benches/peers/tokenizer_parity.py TOKENIZER_DIR LLM_TOKENIZER_BINARY [TEXT_FILE ...]

The binary is `llm-tokenizer`. Every text goes through both `llm-tokenizer encode --special` and the two Python libraries.
Ends with status 1 at the first difference.
"""

import subprocess
import sys

import tokenizers
import transformers

TEXTS = [
    "Hello, World!",
    "It's 12345 cafés\n\n\tdef f(x):\r\n    return x+1  ",
    "数学 天气 is fun。 😀👍🏽 नमस्ते Привет مرحبا",
    "<|eot_id|> <think>2+2</think>",
    " ".join(str(n * n) for n in range(200)),
    "a" * 3000,
]
CONVERSATION = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "What is 2 + 2? ☕"},
    {"role": "assistant", "reasoning_content": "2 + 2 = 4", "content": "4"},
    {"role": "user", "content": "Sure?\n"},
    {"role": "assistant", "content": "Yes."},
]


def ours(binary: str, folder: str, text: str) -> list[int]:
    command = [binary, "encode", "--tokenizer", folder, "--special"]
    out = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    return [int(word) for word in out.split()]


def same(name: str, left: object, right: object) -> None:
    if left != right:
        sys.exit(f"DIFFERENT: {name}\n  {left!r:.500}\n  {right!r:.500}")


def main() -> None:
    folder, binary, *files = sys.argv[1:]
    fast = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    texts = TEXTS + [open(file, encoding="utf-8", newline="").read() for file in files]
    for text in texts:
        ids = ours(binary, folder, text)
        same(f"tokenizers, {text[:40]!r}", ids, fast.encode(text, add_special_tokens=False).ids)
        same(f"transformers, {text[:40]!r}", ids, auto.encode(text, add_special_tokens=False))
        same(f"text of {text[:40]!r}", text, auto.decode(ids))
    bos = auto.bos_token_id
    same("post-processor", [bos, *ours(binary, folder, "x")], auto.encode("x"))

    expected = "<|begin_of_text|>"
    for message in CONVERSATION:
        thought = message.get("reasoning_content")
        body = f"<think>{thought}</think>{message['content']}" if thought else message["content"].strip()
        expected += f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{body}<|eot_id|>"
    rendered = auto.apply_chat_template(CONVERSATION, tokenize=False)
    same("chat text", rendered, expected)
    chat = auto.apply_chat_template(CONVERSATION, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    same("chat ids", list(chat["input_ids"]), ours(binary, folder, rendered))
    spoken = [i for i, m in zip(chat["input_ids"], chat["assistant_masks"]) if m]
    same("assistant mask", auto.decode(spoken), "<think>2 + 2 = 4</think>4<|eot_id|>Yes.<|eot_id|>")
    prompt = auto.apply_chat_template(CONVERSATION[:4], tokenize=False, add_generation_prompt=True)
    same("prefix", True, rendered.startswith(prompt))
    print(f"equal: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes; "
          f"tokenizers {tokenizers.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
