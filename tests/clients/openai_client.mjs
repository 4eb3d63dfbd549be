// Asks OpenAI through its Node SDK, as any program would.
//
// The scenarios to run are its arguments. For each exchange it prints one line of JSON: scenario, way, the id of the
// request, and the usage as the SDK reports it. Where it asks and whom it trusts is left to the SDK.

import OpenAI from "openai";

// What the provider is to do: it stands in the model's name.
const SCENARIOS = {
  plain: "gpt-test+output-37",
  cache: "gpt-test+cache-write-310+cache-read-4200+output-52",
  reasoning: "gpt-test+output-640+reasoning-590",
  slow: "gpt-test+deltas-20+delay-5",
  long: "gpt-test+deltas-3000+delta-bytes-60",
  large: "gpt-test+output-6000",
  refused: "gpt-test",
  too_large: "gpt-test",
  identity: "gpt-test+encoding-identity",
  gzip: "gpt-test+encoding-gzip",
  deflate: "gpt-test+encoding-deflate",
  br: "gpt-test+encoding-br",
};
// What is asked for and not answered.
const REFUSED = ["refused", "too_large"];
const LARGE = "word ".repeat(20_000);
const AT_ONCE = 20;
const CHAT = { messages: [{ role: "user", content: "Say something." }] };
const PROMPT = { prompt: "Say something." };
const INPUT = { input: "Say something." };
const ASKING = { stream: true, stream_options: { include_usage: true } };
const DECLINING = { stream: true, stream_options: { include_usage: false } };

const client = new OpenAI();
const chat = (body) => client.chat.completions.create(body);
const completions = (body) => client.completions.create(body);
const responses = (body) => client.responses.create(body);
const embeddings = (body) => client.embeddings.create(body);
// No two exchanges use the same.
let inputs = 100;

function model(scenario) {
  return `${SCENARIOS[scenario]}+input-${inputs++}`;
}

function say(scenario, way, id, usage, text_length = null) {
  console.log(JSON.stringify({ scenario, way, id, usage, text_length }));
}

// Where a refusal is what is expected, one line of JSON tells of it.
async function telling(scenario, way, call) {
  const begun = performance.now();
  try {
    await call();
  } catch (error) {
    if (!REFUSED.includes(scenario)) throw error;
    const seconds = (performance.now() - begun) / 1000;
    const { status, message, error: body } = error;
    console.log(JSON.stringify({ refused: error.constructor.name, way, status, message, body, seconds }));
  }
}

async function whole(scenario, way, create, options) {
  const answer = await create({ model: model(scenario), ...options });
  say(scenario, way, answer._request_id, answer.usage);
}

async function streamed(scenario, way, create, options) {
  let usage = null;
  const { data, request_id } = await create({ model: model(scenario), ...options }).withResponse();
  for await (const chunk of data) usage = chunk.usage ?? chunk.response?.usage ?? usage;
  say(scenario, way, request_id, usage);
}

// By the SDK's own reader of events, which tells the response's id alone.
async function followed(scenario, way, input) {
  const response = await client.responses.stream({ model: model(scenario), ...input }).finalResponse();
  say(scenario, way, response.id, response.usage);
}

async function everyWay(scenario) {
  const text = scenario === "too_large" ? LARGE : "Say something.";
  const [said, prompt, input] = [{ messages: [{ role: "user", content: text }] }, { prompt: text }, { input: text }];
  const ways = {
    chat: (way) => whole(scenario, way, chat, said),
    chat_streamed: (way) => streamed(scenario, way, chat, { ...said, ...ASKING }),
    completions: (way) => whole(scenario, way, completions, prompt),
    completions_streamed: (way) => streamed(scenario, way, completions, { ...prompt, ...ASKING }),
    responses: (way) => whole(scenario, way, responses, input),
    responses_streamed: (way) => streamed(scenario, way, responses, { ...input, stream: true }),
    responses_followed: (way) => followed(scenario, way, input),
  };
  for (const [way, ask] of Object.entries(ways)) await telling(scenario, way, () => ask(way));
}

// Counting costs nothing.
async function count() {
  const answer = await client.responses.inputTokens.count({ model: "gpt-test+input-77", ...INPUT });
  say("count", "responses", answer._request_id, answer);
}

async function atOnce() {
  const ways = [
    () => whole("slow", "chat", chat, CHAT),
    () => streamed("slow", "chat_streamed", chat, { ...CHAT, ...ASKING }),
    () => streamed("slow", "responses_streamed", responses, { ...INPUT, stream: true }),
  ];
  await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => ways[index % ways.length]()));
}

// As programs do that have asked for no usage: every chunk has a choice.
async function readAlong(scenario, way, create, options) {
  let text = "";
  let usage = null;
  const { data, request_id } = await create({ model: model(scenario), ...options }).withResponse();
  for await (const chunk of data) {
    text += chunk.choices[0].text ?? chunk.choices[0].delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  say(scenario, way, request_id, usage, text.length);
}

async function unasked() {
  for (const scenario of ["plain", "cache", "slow", "long"]) {
    await readAlong(scenario, "chat", chat, { ...CHAT, stream: true });
    await readAlong(scenario, "chat_declined", chat, { ...CHAT, ...DECLINING });
    await readAlong(scenario, "completions", completions, { ...PROMPT, stream: true });
  }
}

// The first request uses up the budget; the second is refused.
async function refused() {
  await whole("large", "chat", chat, CHAT);
  await telling("refused", "chat", () => whole("refused", "chat", chat, CHAT));
}

const SPECIAL = {
  embeddings: () => whole("plain", "embeddings", embeddings, INPUT),
  count,
  at_once: atOnce,
  unasked,
  refused,
};

for (const name of process.argv.slice(2)) await (SPECIAL[name] ?? everyWay)(name);
