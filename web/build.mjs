// Makes the pages: `node build.mjs DIRECTORY`. With --test, the unit tests instead, for `node --test`.
import { copyFileSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const ui = join(here, "ui");
const test = process.argv[2] === "--test";
const out = process.argv[test ? 3 : 2];
if (!out) {
  console.error("usage: node build.mjs [--test] DIRECTORY");
  process.exit(64);
}
mkdirSync(out, { recursive: true });

if (test) {
  const files = readdirSync(ui, { recursive: true }).filter((name) => name.endsWith(".test.ts"));
  await build({
    entryPoints: files.map((name) => join(ui, name)),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node18",
    outdir: out,
    outExtension: { ".js": ".mjs" },
    entryNames: "[name]",
    logLevel: "warning",
  });
} else {
  // What is bundled brings its licence along.
  const licence = readFileSync(join(here, "node_modules/uplot/LICENSE"), "utf8");
  await build({
    entryPoints: [
      { in: join(ui, "market/main.ts"), out: "app" },
      { in: join(ui, "market/market.css"), out: "app" },
      { in: join(ui, "dashboard/main.ts"), out: "dashboard" },
      { in: join(ui, "dashboard/dashboard.css"), out: "dashboard" },
    ],
    bundle: true,
    minify: true,
    format: "iife",
    target: ["es2022", "chrome109", "firefox115", "safari16.4"],
    charset: "utf8",
    legalComments: "eof",
    banner: { js: `/*! uPlot\n${licence}*/` },
    outdir: out,
    logLevel: "warning",
  });
  copyFileSync(join(ui, "market/index.html"), join(out, "index.html"));
  copyFileSync(join(ui, "dashboard/dashboard.html"), join(out, "dashboard.html"));
}
