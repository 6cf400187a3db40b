// The correct SEP extension of extension.py once more, for Node 20 without packages. It has no faults to choose from.

import { createWriteStream } from "node:fs";

const BOM = Buffer.from([0xef, 0xbb, 0xbf]);
const HOOKS = [
  "tool_call", "user_bash", "tool_result", "input", "before_agent_start", "context", "before_provider_request",
  "message_end", "session_before_compact", "session_before_tree",
];
const COLOURS = ["red", "green", "blue"];

// What the params of a request must have. A check is a function; an object checks its fields, where "?" marks an
// optional one; [check] is a list of such.
const text = (value) => typeof value === "string";
const flag = (value) => typeof value === "boolean";
const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const version = (value) => Number.isInteger(value) && value >= 1;
const oneOf = (...words) => (value) => words.includes(value);
const CONTEXT = { token: text, tier: oneOf("event", "command") };
const OAUTH = { provider: text, "refresh_token?": text, "context?": CONTEXT };
const PARAMS = new Map(Object.entries({
  initialize: {
    protocol_version: version,
    host: { name: text, version: text },
    workspace: { root: text, trusted: flag },
    "session?": { "id?": text },
    mode: oneOf("tui", "web", "widget", "cli", "headless"),
    "ui_capabilities?": [text],
    "flags?": object,
    "capabilities_enabled?": object,
  },
  shutdown: {},
  hook: { hook: oneOf(...HOOKS), context: CONTEXT, input: object },
  "tool/execute": { call_id: text, tool: text, arguments: object, context: CONTEXT },
  "command/execute": { command: text, context: CONTEXT, "arguments?": object },
  "command/complete": { command: text, context: CONTEXT, "partial?": text },
  "provider/complete": {
    request_id: text, provider: text, model: text, messages: [object], "tools?": [object], "stream?": flag,
    "response_format?": object, "thinking?": text, "context?": CONTEXT,
  },
  "provider/oauth_login": OAUTH,
  "provider/oauth_refresh": OAUTH,
}));

function fits(value, check) {
  if (typeof check === "function") return check(value);
  if (Array.isArray(check)) return Array.isArray(value) && value.every((item) => fits(item, check[0]));
  return object(value) && Object.entries(check).every(([key, inner]) => {
    const name = key.replace("?", "");
    return Object.hasOwn(value, name) ? fits(value[name], inner) : key.endsWith("?");
  });
}

const tool = (name, description, properties = {}, required = []) => ({
  name, description, parameters: { type: "object", properties, required, additionalProperties: false },
});
const TOOLS = [
  tool("echo", "Give a text back.", { text: { type: "string" } }, ["text"]),
  tool("slow", "Take some time.", { seconds: { type: "number", minimum: 0, maximum: 3600 } }),
  tool("fail", "Fail."),
  tool("ask", "Ask the user whether to go on.", { question: { type: "string" } }),
];
const REGISTRATIONS = {
  tools: TOOLS,
  commands: [
    { name: "colour", description: "Choose a colour." },
    { name: "turns", description: "Say how many turns there have been." },
  ],
  flags: ["loud"],
  shortcuts: [{ key: "ctrl+p", command: "colour", description: "Choose a colour" }],
  subscriptions: ["turn_start", "message_end", "bus/event"],
  hooks: ["tool_call", "before_agent_start"],
  providers: [{ name: "parrot", oauth: true, models: [{ id: "small", display_name: "Small parrot" }] }],
  message_renderers: [
    { tag: "colour", template: { kind: "keyvalue", rows: [{ key: "Colour", value: "{{name}}" }] } },
  ],
};

function wrongArguments(schema, given) {
  for (const name of schema.required) if (!Object.hasOwn(given, name)) return `${name} is missing`;
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(schema.properties, name)) return `${name} is not an argument of this tool`;
    const known = schema.properties[name];
    if (typeof value !== known.type) return `${name} must be a ${known.type}`;
    if (value < known.minimum || value > known.maximum) return `${name} is out of range`;
  }
  return "";
}

class Refused extends Error {
  constructor(code, message) {
    super(`${message} (${code})`);
    this.code = code;
  }
}
class Cancelled extends Error {}

// A stream of its own for fd 1: process.stdout writes to pipes synchronously, and nothing is read meanwhile.
const out = createWriteStream(null, { fd: 1 });
out.on("error", () => process.exit(0)); // there is no reader any more
const send = (frame) => out.write(JSON.stringify(frame) + "\n");
const answer = (id, outcome) => send({ jsonrpc: "2.0", id, ...outcome });
const refuse = (id, code, message) => answer(id, { error: { code, message } });
const notify = (method, params) => send({ jsonrpc: "2.0", method, params });

let host = null; // what initialize said
let turns = 0;
let ending = false;
let deaf = false; // the host says nothing any more
let nextNumber = 1;
const calls = new Map(); // id: {cancel, done}
const asked = new Map(); // our number: what takes the answer

// Wait for what `start` begins: it is given what ends the wait, and gives back what undoes it.
function wait(signal, start) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new Cancelled());
    const undo = start((value) => {
      signal.removeEventListener("abort", abort);
      resolve(value);
    });
    const abort = () => {
      undo();
      reject(new Cancelled());
    };
    signal.addEventListener("abort", abort, { once: true });
  });
}

const pause = (signal, seconds) => wait(signal, (resolve) => {
  const timer = setTimeout(resolve, seconds * 1000);
  return () => clearTimeout(timer);
});

async function ask(signal, method, params) {
  if (deaf) throw new Refused(-32603, "the host is gone");
  const frame = await wait(signal, (resolve) => {
    const number = nextNumber++;
    asked.set(number, resolve);
    send({ jsonrpc: "2.0", id: number, method, params });
    return () => {
      asked.delete(number);
      notify("$/cancel", { id: number });
    };
  });
  if (object(frame.result)) return frame.result;
  throw new Refused(frame.error?.code, frame.error?.message);
}

const tools = {
  echo: async (call, { text }) => ({ content: host.flags?.loud === true ? text.toUpperCase() : text }),
  slow: async (call, { seconds = 0.5 }) => {
    for (let step = 1; step <= 4; step++) {
      await pause(call.signal, seconds / 4);
      notify("tool/update", { call_id: call.params.call_id, message: "busy", progress: step / 4 });
    }
    return { content: `${seconds} s later` };
  },
  fail: async () => {
    notify("log", { level: "warn", message: "about to fail", fields: { tool: "fail" } });
    return { content: "this tool always fails", is_error: true, details: { why: "it is told to" } };
  },
  ask: async (call, { question = "Go on?" }) => {
    const refused = [];
    const tryTo = async (method, params) => {
      try {
        return await ask(call.signal, method, params);
      } catch (why) {
        if (!(why instanceof Refused)) throw why;
        refused.push(`${method}: ${why.message}`); // a host need not offer everything
        return {};
      }
    };
    const agreed = (await tryTo("ui/request", { kind: "confirm", prompt: question })).confirmed ?? null;
    const before = (await tryTo("kv/get", { key: "asked" })).value;
    const count = Number.isInteger(before) ? before + 1 : 1;
    await tryTo("kv/set", { key: "asked", value: count });
    await tryTo("session/append_entry", { context: call.params.context, entry: { question, agreed } });
    return { content: agreed === true ? "yes" : "no", details: { asked: count, refused } };
  },
};

function runCommand({ command, arguments: given = {} }) {
  if (command === "colour") return { content: `The colour is ${given.name ?? COLOURS[0]}.` };
  if (command === "turns") return { content: `There have been ${turns} turns.` };
  throw new Refused(-32602, `there is no command ${command}`);
}

function checkProvider({ provider, model = "small" }) {
  if (provider !== "parrot" || model !== "small") throw new Refused(-32602, "there is only parrot, with small");
}

async function login({ params }) {
  checkProvider(params);
  const expires_at = Math.floor(Date.now() / 1000) + 3600;
  return { access_token: "access", refresh_token: "refresh", expires_at, extra: { scope: "all" } };
}

const methods = {
  "tool/execute": async (call) => {
    const { tool: name, arguments: given } = call.params;
    const schema = TOOLS.find((one) => one.name === name)?.parameters;
    const wrong = schema ? wrongArguments(schema, given) : `there is no tool ${name}`;
    return wrong ? { content: wrong, is_error: true } : tools[name](call, given);
  },
  hook: async ({ params: { hook, input } }) => {
    if (hook === "before_agent_start" && text(input.system_prompt)) {
      const system_prompt = `${input.system_prompt}\nSay which colour you like.`;
      return { action: "modify", patch: { ...input, system_prompt } };
    }
    if (hook === "tool_call" && object(input.arguments)) {
      const { command, text: said } = input.arguments;
      if (String(command).includes("rm -rf")) return { action: "block", reason: "rm -rf is not wanted here" };
      if (input.tool === "plain.echo" && text(said)) {
        return { action: "modify", patch: { ...input, arguments: { ...input.arguments, text: said.trim() } } };
      }
    }
    return { action: "continue" };
  },
  "command/execute": async ({ params }) => runCommand(params),
  "command/complete": async ({ params }) => {
    runCommand(params); // refuses a command that does not exist
    const fitting = params.command === "colour" ? COLOURS.filter((one) => one.startsWith(params.partial ?? "")) : [];
    return { completions: fitting.map((value) => ({ value, description: `The colour ${value}` })) };
  },
  "provider/complete": async ({ params, signal }) => {
    checkProvider(params);
    const pieces = ["You", " said: ", String(params.messages.at(-1)?.content ?? "")];
    const usage = { prompt_tokens: 1, completion_tokens: 3, total_tokens: 4 };
    const delta = async (type, fields) => {
      await pause(signal, 0.02);
      notify("provider/delta", { request_id: params.request_id, event: { type, ...fields } });
    };
    if (params.stream) {
      await delta("Model", { name: "parrot-1" });
      for (const content of pieces) await delta("Delta", { content });
      await delta("Usage", usage);
      await delta("Done", { finish_reason: "stop" });
    }
    return { content: pieces.join(""), tool_calls: [], finish_reason: "stop", usage, resolved_model: "parrot-1" };
  },
  "provider/oauth_login": login,
  "provider/oauth_refresh": login,
};

async function work(id, method, params, signal) {
  let outcome;
  try {
    outcome = { result: await methods[method]({ params, signal }) };
  } catch (error) {
    const [code, message] =
      error instanceof Cancelled ? [-32800, "cancelled"]
      : error instanceof Refused ? [error.code, error.message]
      : (console.error(error), [-32603, `${method} failed`]);
    outcome = { error: { code, message } };
  }
  calls.delete(id);
  answer(id, outcome);
}

function requested(id, method, params) {
  if (calls.has(id)) return refuse(id, -32600, "this id is in use");
  if (method === "ping") return answer(id, { result: {} });
  if (ending || (host === null) !== (method === "initialize")) return refuse(id, -32600, `not now: ${method}`);
  if (!PARAMS.has(method)) return refuse(id, -32601, `there is no method ${method}`);
  if (!fits(params, PARAMS.get(method))) return refuse(id, -32602, `the params of ${method} do not fit`);
  if (method === "initialize") {
    host = params;
    const extension = { name: "plain", version: "1.0.0" };
    const protocol_version = Math.min(params.protocol_version, 1);
    return answer(id, { result: { protocol_version, extension, registrations: REGISTRATIONS } });
  }
  if (method === "shutdown") {
    ending = true;
    return drain().then(() => leave({ jsonrpc: "2.0", id, result: {} }));
  }
  const controller = new AbortController();
  const call = { cancel: () => controller.abort() };
  calls.set(id, call);
  call.done = work(id, method, params, controller.signal);
}

function notified(method, params) {
  if (method === "event" && params.event === "turn_start") turns += 1;
  if (method === "$/cancel") calls.get(params.id)?.cancel();
}

function take(frame) {
  if (!object(frame)) return refuse(null, -32600, "a frame is an object, one a line");
  const { jsonrpc, id, method, params = {} } = frame;
  if (!("method" in frame) && ("result" in frame || "error" in frame)) {
    asked.get(id)?.(frame);
    asked.delete(id);
    return;
  }
  // An integer beyond what a double holds would come back as another one.
  const known = text(id) || Number.isSafeInteger(id) ? id : null;
  if (jsonrpc !== "2.0") return refuse(known, -32600, 'jsonrpc must be "2.0"');
  if (!text(method)) return refuse(known, -32600, "method must be a string");
  if ("id" in frame && known === null) return refuse(null, -32600, "id must be an integer or a string");
  if (!object(params)) return refuse(known, -32600, "params must be an object");
  if ("id" in frame) requested(id, method, params);
  else notified(method, params);
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
let first = true;

function received(line) {
  if (first && line.subarray(0, 3).equals(BOM)) line = line.subarray(3);
  first = false;
  let frame;
  try {
    const decoded = decoder.decode(line);
    if (/^[ \t\r]*$/.test(decoded)) return;
    frame = JSON.parse(decoded);
  } catch {
    return refuse(null, -32700, "this is not JSON");
  }
  take(frame);
}

// Let the calls finish, and after 3 seconds cancel what is left: the host waits 5.
async function drain() {
  const left = () => Promise.allSettled([...calls.values()].map((call) => call.done));
  const timer = setTimeout(() => calls.forEach((call) => call.cancel()), 3000);
  await left();
  clearTimeout(timer);
}

function leave(last) {
  if (last) send(last);
  out.end(() => process.exit(0));
}

let held = [];
process.stdin.on("data", (data) => {
  for (let end; (end = data.indexOf(10)) >= 0; data = data.subarray(end + 1)) {
    received(Buffer.concat([...held, data.subarray(0, end)]));
    held = [];
  }
  if (data.length) held.push(data);
});
process.stdin.on("end", () => {
  if (held.length) received(Buffer.concat(held));
  deaf = true;
  for (const [number, resolve] of asked) resolve({ id: number, error: { code: -32603, message: "the host is gone" } });
  asked.clear();
  if (ending) return; // shutdown will leave
  ending = true;
  drain().then(() => leave());
});
