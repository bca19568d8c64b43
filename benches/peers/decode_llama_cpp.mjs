// llama.cpp's side of decode.py: read a prompt of given ids and continue it greedily, through the prebuilt libraries of the npm package
// node-llama-cpp. Run it in the folder where that is installed. One line of JSON comes out: seconds of the prompt, tokens a second, ids.
//
//   node decode_llama_cpp.mjs MODEL.gguf PROMPT_IDS.json NEW_TOKENS THREADS
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
import path from "node:path";

const [modelPath, idsPath, count, threads] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), "package.json"));
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const ids = JSON.parse(readFileSync(idsPath, "utf8"));
const n = Number(count);

const llama = await getLlama({gpu: false, build: "never", maxThreads: Number(threads), logLevel: "error"});
const model = await llama.loadModel({modelPath, useMmap: true});
const context = await model.createContext({contextSize: ids.length + n + 8, batchSize: 512, threads: Number(threads), sequences: 1});
const sequence = context.getSequence();

// Touch the weights once, as the other side has when it measures.
await sequence.evaluateWithoutGeneratingNewTokens(ids.slice(0, 4));
await sequence.clearHistory();

let began = performance.now();
await sequence.evaluateWithoutGeneratingNewTokens(ids.slice(0, -1));
const prefill = (performance.now() - began) / 1000;

const out = [];
let first = 0;
for await (const token of sequence.evaluate([ids.at(-1)], {temperature: 0, yieldEogToken: true})) {
    if (out.length === 0) first = performance.now();
    out.push(token);
    if (out.length === n) break;
}
const seconds = (performance.now() - first) / 1000;
console.log(JSON.stringify({prefill_seconds: prefill, tokens_per_second: n > 1 ? (n - 1) / seconds : null, ids: out, system: llama.systemInfo}));
process.exit(0);
