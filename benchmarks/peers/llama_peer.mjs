// llama.cpp through node-llama-cpp: without speculation and with its lookup in the prompt. The protocol is that of
// program.py; the second argument is the directory of the package.

import {readFileSync, writeSync} from "node:fs";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const directory = pathToFileURL(process.argv[3] + "/");
const {getLlama, InputLookupTokenPredictor} = await import(new URL("dist/index.js", directory));

const MAX_CONTEXT = 2048;
const LOOKUP = {
  "lookup, 3 drafts": {},
  "lookup 2, 8 drafts": {patternLength: {min: 2}, predictionLength: {max: 8}},
};

async function load(options) {
  const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 0});
  const model = await llama.loadModel({modelPath: options.model});
  // A context each: what one mode has read lies in no other's cache.
  const newContext = () => model.createContext({contextSize: MAX_CONTEXT, threads: options.threads});
  const modes = {baseline: mode((await newContext()).getSequence(), null, options)};
  for (const [name, settings] of Object.entries(LOOKUP)) {
    const tokenPredictor = new InputLookupTokenPredictor(settings);
    modes[name] = mode((await newContext()).getSequence({tokenPredictor}), tokenPredictor, options);
  }
  return {llama, modes};
}

function mode(sequence, predictor, {max_new_tokens, eos_token_ids}) {
  return async (prompt) => {
    await sequence.clearHistory();
    predictor?.updateInputTokens(prompt);
    const token_ids = [];
    const started = performance.now();
    let first = started;
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
      if (token_ids.length === 0) first = performance.now();
      token_ids.push(token);
      if (token_ids.length === max_new_tokens || eos_token_ids.includes(token)) break;
    }
    const ended = performance.now();
    return {token_ids, prefill_seconds: (first - started) / 1e3, decode_seconds: (ended - first) / 1e3};
  };
}

function reply(value) {
  writeSync(1, JSON.stringify(value) + "\n");
}

const {llama, modes} = await load(JSON.parse(process.argv[2]));
const {version} = JSON.parse(readFileSync(new URL("package.json", directory), "utf8"));
reply({versions: {"node-llama-cpp": version, "llama.cpp": llama.llamaCppRelease.release}, modes: Object.keys(modes)});
for await (const line of createInterface({input: process.stdin})) {
  const request = JSON.parse(line);
  reply(await modes[request.mode](request.prompt));
}
