// Does OpenAI's client for Node get along with llm-serve?
//
//     npm install openai        # in any folder, and run it there
//     node path/to/serve_openai.mjs --url http://127.0.0.1:8080 [--key KEY] [--model NAME]
//
// The same calls as serve_openai.py. Prints a table; the exit status is 1 if a call failed.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";

// The package is looked for where the script is run, not where it lies.
const { default: OpenAI } = createRequire(path.join(process.cwd(), "package.json"))("openai");

const { values: args } = parseArgs({ options: { url: { type: "string" }, key: { type: "string", default: "none" }, model: { type: "string" } } });
if (!args.url) {
  console.error("usage: node serve_openai.mjs --url URL [--key KEY] [--model NAME]");
  process.exit(2);
}
const client = new OpenAI({ baseURL: args.url.replace(/\/$/, "") + "/v1", apiKey: args.key, maxRetries: 0 });
const cards = (await client.models.list()).data;
const card = cards.find((c) => !args.model || c.id === args.model);
const model = card.id;

const chat = (more = {}) => client.chat.completions.create({ model, messages: [{ role: "user", content: "Hello" }], max_tokens: 24, ...more });
const pick = {
  type: "object",
  properties: { color: { enum: ["red", "green"] }, dark: { type: "boolean" } },
  required: ["color", "dark"],
  additionalProperties: false,
};
const tools = [
  { type: "function", function: { name: "pick", description: "Pick a color.", parameters: pick } },
  { type: "function", function: { name: "stop", parameters: { type: "object", properties: {}, additionalProperties: false } } },
];
const refused = async (call, expected) => {
  await assert.rejects(call, (error) => {
    for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value);
    return true;
  });
};
class Skip extends Error {}

const checks = {
  async models() {
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  async chat() {
    const reply = await chat();
    assert.equal(reply.choices[0].message.role, "assistant");
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  },
  async chat_stream() {
    let text = "";
    let usage;
    for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true }, seed: 1, temperature: 1 })) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.ok(usage.completion_tokens > 0);
    assert.equal(text, (await chat({ seed: 1, temperature: 1 })).choices[0].message.content);
  },
  async chat_n_logprobs() {
    const reply = await chat({ n: 2, seed: 5, temperature: 1.2, logprobs: true, top_logprobs: 2, stop: ["\n\n"] });
    assert.equal(reply.choices.length, 2);
    for (const token of reply.choices[0].logprobs.content) assert.equal(token.top_logprobs.length, 2);
  },
  async tools_auto() {
    const choice = (await chat({ tools, tool_choice: "auto" })).choices[0];
    assert.ok(["stop", "length", "tool_calls"].includes(choice.finish_reason));
  },
  async tools_required() {
    const choice = (await chat({ tools, tool_choice: "required", parallel_tool_calls: false, temperature: 1, seed: 2, max_tokens: 400 })).choices[0];
    assert.equal(choice.finish_reason, "tool_calls");
  },
  async tools_named_and_result() {
    const named = { type: "function", function: { name: "pick" } };
    const message = (await chat({ tools, tool_choice: named, temperature: 1, seed: 3, max_tokens: 400 })).choices[0].message;
    const call = message.tool_calls[0];
    assert.ok(["red", "green"].includes(JSON.parse(call.function.arguments).color));
    const messages = [{ role: "user", content: "Pick." }, message, { role: "tool", tool_call_id: call.id, content: "done" }];
    assert.ok((await chat({ messages, tools, tool_choice: "none" })).choices.length);
  },
  async tools_parallel_stream() {
    const runner = client.chat.completions.stream({
      model, tools, tool_choice: "required", messages: [{ role: "user", content: "Pick twice." }], temperature: 1, seed: 4, max_tokens: 400,
    });
    let next = 0;
    runner.on("chunk", (chunk) => {
      for (const call of chunk.choices[0]?.delta.tool_calls ?? []) if (call.id) assert.equal(call.index, next++);
    });
    const choice = (await runner.finalChatCompletion()).choices[0];
    for (const call of choice.message.tool_calls ?? []) JSON.parse(call.function.arguments);
  },
  async response_format() {
    const shape = { type: "json_schema", json_schema: { name: "pick", strict: true, schema: pick } };
    const reply = await chat({ response_format: shape, temperature: 1, seed: 1, max_tokens: 300 });
    assert.ok(["red", "green"].includes(JSON.parse(reply.choices[0].message.content).color));
    const object = (await chat({ response_format: { type: "json_object" }, max_tokens: 200 })).choices[0];
    if (object.finish_reason === "stop") assert.equal(typeof JSON.parse(object.message.content), "object");
  },
  async completions() {
    const reply = await client.completions.create({ model, prompt: ["one two", "three"], max_tokens: 6, n: 2, logprobs: 2 });
    assert.equal(reply.choices.length, 4);
    let text = "";
    for await (const chunk of await client.completions.create({ model, prompt: "one two", max_tokens: 8, stream: true })) text += chunk.choices[0]?.text ?? "";
    assert.equal(text, (await client.completions.create({ model, prompt: "one two", max_tokens: 8 })).choices[0].text);
  },
  async embeddings() {
    const reply = await client.embeddings.create({ model, input: ["one", "two"] });
    const norm = reply.data[0].embedding.reduce((sum, x) => sum + x * x, 0);
    assert.ok(Math.abs(norm - 1) < 1e-3, `${norm}`);
    assert.equal((await client.embeddings.create({ model, input: "one", dimensions: 8 })).data[0].embedding.length, 8);
  },
  async images() {
    const content = [{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }];
    await refused(() => chat({ messages: [{ role: "user", content }] }), { status: 400 });
    if (!card.input_modalities.includes("image")) throw new Skip("this model reads text only, and says so");
  },
  async errors() {
    await refused(() => client.chat.completions.create({ model: "no-such-model", messages: [{ role: "user", content: "x" }] }), { status: 404, code: "model_not_found" });
    await refused(() => chat({ temperature: 3 }), { status: 400, param: "temperature" });
    await refused(() => chat({ temprature: 1 }), { code: "unknown_parameter" });
    await refused(() => chat({ max_tokens: 1e9 }), { code: "context_length_exceeded" });
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`${name.padEnd(32)} ok`);
  } catch (error) {
    if (error instanceof Skip) console.log(`${name.padEnd(32)} -   ${error.message}`);
    else {
      failed += 1;
      console.log(`${name.padEnd(32)} FAILED ${error}`);
    }
  }
}
console.log(`${Object.keys(checks).length - failed} of ${Object.keys(checks).length} fine`);
process.exit(failed ? 1 : 0);
