// The same extension as echo.py, by the TypeScript SDK for SEP extensions. `node echo.mjs FOLDER`: the SDK's, built.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const inside = createRequire(join(folder, "package.json"));
const load = (path) => import(pathToFileURL(path).href);

const { defineExtension, defineTool } = await load(join(folder, "dist", "index.js"));
const { z } = await load(inside.resolve("zod"));

const echo = defineTool({
  name: "echo",
  description: "Return the text.",
  parameters: z.object({ text: z.string() }),
  async execute({ text }) {
    return { content: text };
  },
});

defineExtension((extension) => {
  extension.name = "echo";
  extension.version = "0";
  extension.registerTool(echo);
}).serve();
