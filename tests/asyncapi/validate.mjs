// Validates an AsyncAPI document and everything it refers to: prints each diagnostic, exits 1 if one is an error.
// Usage: node validate.mjs DOCUMENT. Its own folder, or the working directory, holds node_modules.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const SEVERITIES = ["error", "warning", "information", "hint"];
const ERROR = 0;

const [path] = process.argv.slice(2);
if (!path) {
  console.error("usage: node validate.mjs DOCUMENT");
  process.exit(2);
}

const require = createRequire(resolve("package.json"));
const { Parser } = require("@asyncapi/parser");
const text = await readFile(path, "utf8");
const { document, diagnostics } = await new Parser().parse(text, { source: path });

for (const { severity, code, message, path: where } of diagnostics) {
  console.log(`${SEVERITIES[severity]} ${code} at /${where.join("/")}: ${message}`);
}
if (!document || diagnostics.some(({ severity }) => severity === ERROR)) {
  process.exit(1);
}
const count = (items) => items.all().length;
console.log(
  `valid: AsyncAPI ${document.version()}, ${count(document.channels())} channels, ` +
    `${count(document.operations())} operations, ${count(document.messages())} messages`,
);
