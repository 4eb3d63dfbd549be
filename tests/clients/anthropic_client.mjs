// Asks Anthropic through its Node SDK, as any program would.
//
// The scenarios to run are its arguments. For each exchange it prints one line of JSON: scenario, way, the id of the
// request, and the usage as the SDK reports it. Where it asks and whom it trusts is left to the SDK.

import Anthropic from "@anthropic-ai/sdk";

const TOOL = { name: "note", input_schema: { type: "object", properties: { text: { type: "string" } } } };
const CACHED = [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral", ttl: "1h" } }];

// What the provider is to do, which stands in the model's name, and what else the request says.
const SCENARIOS = {
  plain: ["claude-test+output-37", {}],
  cache: ["claude-test+cache-write-310+cache-write-1h-110+cache-read-4200+output-52", { system: CACHED }],
  thinking: ["claude-test+output-640+reasoning-590", { thinking: { type: "enabled", budget_tokens: 1024 } }],
  tools: ["claude-test+output-81+tool-use", { tools: [TOOL] }],
  slow: ["claude-test+deltas-20+delay-5", {}],
  long: ["claude-test+deltas-3000+delta-bytes-60", {}],
  large: ["claude-test+output-6000", {}],
  refused: ["claude-test", {}],
  too_large: ["claude-test", { messages: [{ role: "user", content: "word ".repeat(20_000) }] }],
  identity: ["claude-test+encoding-identity", {}],
  gzip: ["claude-test+encoding-gzip", {}],
  deflate: ["claude-test+encoding-deflate", {}],
  br: ["claude-test+encoding-br", {}],
};
// What is asked for and not answered.
const REFUSED = ["refused", "too_large"];
const AT_ONCE = 20;

const client = new Anthropic();
// No two exchanges use the same.
let inputs = 100;

function request(scenario) {
  const [model, options] = SCENARIOS[scenario];
  const messages = [{ role: "user", content: "Say something." }];
  return { model: `${model}+input-${inputs++}`, max_tokens: 2048, messages, ...options };
}

function say(scenario, way, id, usage) {
  console.log(JSON.stringify({ scenario, way, id, usage }));
}

async function create(scenario) {
  const message = await client.messages.create(request(scenario));
  say(scenario, "create", message._request_id, message.usage);
}

async function stream(scenario) {
  const events = client.messages.stream(request(scenario));
  const message = await events.finalMessage();
  say(scenario, "stream", events.request_id, message.usage);
}

async function events(scenario) {
  const usage = {};
  const { data, request_id } = await client.messages.create({ ...request(scenario), stream: true }).withResponse();
  for await (const event of data) {
    const told = event.type === "message_start" ? event.message.usage : event.usage;
    Object.assign(usage, Object.fromEntries(Object.entries(told ?? {}).filter(([, value]) => value !== null)));
  }
  say(scenario, "events", request_id, usage);
}

// Where a refusal is what is expected, one line of JSON tells of it.
const telling = (call) => async (scenario) => {
  const begun = performance.now();
  try {
    await call(scenario);
  } catch (error) {
    if (!REFUSED.includes(scenario)) throw error;
    const seconds = (performance.now() - begun) / 1000;
    const { status, message, error: body } = error;
    console.log(JSON.stringify({ refused: error.constructor.name, way: call.name, status, message, body, seconds }));
  }
};

const WAYS = [create, stream, events].map(telling);

// Counting costs nothing.
async function count() {
  const messages = [{ role: "user", content: "Say something." }];
  const answer = await client.messages.countTokens({ model: "claude-test+input-77", messages });
  say("count", "create", answer._request_id, answer);
}

async function atOnce() {
  await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => WAYS[index % WAYS.length]("slow")));
}

// The first request uses up the budget; the second is refused.
async function refused() {
  await create("large");
  await telling(create)("refused");
}

const SPECIAL = { count, at_once: atOnce, refused };

for (const name of process.argv.slice(2)) {
  for (const way of name in SPECIAL ? [SPECIAL[name]] : WAYS) await way(name);
}
