// A correct SEP extension in plain JavaScript that validates nothing and answers everything, for Node 20.
// Its numbers are doubles: an id past 2^53 comes back rounded. A context goes back to the host as it came.

import { createInterface } from "node:readline";

const asked = new Map(); // our id: what takes the answer
const calls = new Map(); // the host's id: what cancels the call
let next = 1;

const send = (frame) => process.stdout.write(JSON.stringify({ jsonrpc: "2.0", ...frame }) + "\n");
const ask = (method, params, cancelled) => new Promise((resolve, reject) => {
  const id = next++;
  asked.set(id, resolve);
  send({ id, method, params });
  cancelled.then(() => reject({ code: -32800, message: "cancelled" }));
});

const tools = new Map(Object.entries({
  add: async ({ arguments: { a, b } }) => ({ content: String(a + b) }),
  upper: async ({ arguments: { text } }) => ({ content: text.toUpperCase() }),
  count: async ({ call_id, arguments: { to } }) => {
    for (let n = 1; n <= to; n++) send({ method: "tool/update", params: { call_id, message: `${n}`, progress: n / to } });
    return { content: `${to}`, details: { to } };
  },
  note: async ({ context }, cancelled) => {
    await ask("ui/request", { kind: "confirm", prompt: "Keep it?" }, cancelled);
    const { error } = await ask("session/append_entry", { context, entry: { kept: true } }, cancelled);
    return { content: error ? error.message : "kept" };
  },
}));
const parameters = (properties) => ({ type: "object", properties, required: Object.keys(properties) });
const number = { type: "number" };
const registrations = {
  tools: [
    { name: "add", description: "Add.", parameters: parameters({ a: number, b: number }) },
    { name: "upper", description: "In capitals.", parameters: parameters({ text: { type: "string" } }) },
    { name: "count", description: "Count.", parameters: parameters({ to: { type: "integer", minimum: 60 } }) },
    { name: "note", description: "Keep a note.", parameters: { type: "object" } },
  ],
  commands: [{ name: "hello", description: "Say hello." }],
  hooks: ["tool_call", "input"],
  subscriptions: ["turn_start"],
  providers: [{ name: "echo", models: [{ id: "one" }] }],
};

const methods = new Map(Object.entries({
  initialize: () => ({ protocol_version: 1, extension: { name: "careless", version: "1" }, registrations }),
  ping: () => ({}),
  shutdown: () => ({}),
  hook: () => ({ action: "continue" }),
  "tool/execute": (params, cancelled) => tools.get(params.tool)(params, cancelled),
  "command/execute": ({ command }) => ({ content: `This is ${command}.` }),
  "command/complete": () => ({ completions: [] }),
  "provider/complete": ({ request_id, stream, messages }) => {
    const { content } = messages[0];
    if (stream) send({ method: "provider/delta", params: { request_id, event: { type: "Delta", content } } });
    return { content };
  },
}));

async function requested(id, method, params) {
  if (!methods.has(method)) return send({ id, error: { code: -32601, message: `no ${method}` } });
  const cancelled = new Promise((resolve) => calls.set(id, resolve));
  try {
    send({ id, result: await methods.get(method)(params, cancelled) });
  } catch ({ code = -32603, message }) {
    send({ id, error: { code, message } });
  }
  calls.delete(id);
  if (method === "shutdown") process.stdout.write("", () => process.exit(0));
}

function received(line) {
  let frame;
  try {
    frame = JSON.parse(line);
  } catch {
    return send({ id: null, error: { code: -32700, message: "not JSON" } });
  }
  try {
    const { id, method, params } = frame;
    if (method === undefined) asked.get(id)?.(frame);
    else if (id !== undefined) requested(id, method, params);
    else if (method === "$/cancel") calls.get(params.id)?.();
  } catch (error) {
    console.error(error);
  }
}

createInterface({ input: process.stdin }).on("line", received).on("close", () => process.exit(0));
