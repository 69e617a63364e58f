// Drives a page in headless Chromium: `node driver.mjs CHROMIUM`. Each line of standard input is a command in JSON, each line of standard
// output its answer, {"ok":…} or {"error":…}. What a page may not do is kept: requests to other hosts, its own errors and violations of its policy.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { Crowd } from "./crowd.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE = 40_000;

const browser = await chromium.launch({ executablePath: process.argv[2], args: ["--no-sandbox"] });
let context, page, debug, host;
const foreign = [], errors = [];
let sockets = 0;

async function open({ url, dark = false, width = 1280, height = 900, language = "en-GB", crowd, without }) {
  await context?.close();
  foreign.length = errors.length = sockets = 0;
  host = new URL(url).host;
  context = await browser.newContext({ viewport: { width, height }, locale: language, colorScheme: dark ? "dark" : "light", serviceWorkers: "block" });
  page = await context.newPage();
  debug = await context.newCDPSession(page);
  page.setDefaultTimeout(PATIENCE);
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (to.protocol !== "data:" && to.host !== host) foreign.push(request.url());
  });
  page.on("websocket", (socket) => {
    sockets += 1;
    if (new URL(socket.url()).host !== host) foreign.push(socket.url());
  });
  // What the page's scripts throw and write, and what the browser says of its policy.
  debug.on("Runtime.exceptionThrown", ({ exceptionDetails }) => errors.push(exceptionDetails.exception?.description ?? exceptionDetails.text));
  debug.on("Runtime.consoleAPICalled", ({ type, args }) => {
    if (type === "error" || type === "assert") errors.push(args.map(({ value, description }) => value ?? description).join(" "));
  });
  debug.on("Log.entryAdded", ({ entry }) => {
    if (entry.level === "error" && !isOfTheNetwork(entry)) errors.push(entry.text);
  });
  await debug.send("Runtime.enable");
  await debug.send("Log.enable");
  // A call that nobody answers.
  if (without) await page.route(`**${without}`, (route) => route.abort());
  if (crowd) await new Crowd(crowd).serve(page);
  await page.goto(url);
}

/** The browser's own note of a connection or an answer that did not come about: a server that is away is no fault of a page. */
function isOfTheNetwork({ source, text }) {
  return source === "network" || text.startsWith("WebSocket connection to ");
}

/** By the debugger, whom the page's policy lets evaluate texts. */
async function evaluate(expression) {
  const { result, exceptionDetails } = await debug.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true, allowUnsafeEvalBlockedByCSP: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

/** A page that is being loaded anew has no script in which anything could be true. */
function whileLoading(error) {
  if (/context|navigated|document.body|of null/i.test(String(error))) return false;
  throw error;
}

/** Findings that keep somebody from using the page. */
async function accessible() {
  await evaluate(`${axe}; null`);
  const violations = await evaluate(`axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
    violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ target }) => ({ target })) })))`);
  return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).slice(0, 5).join(", ")}`);
}

/** What the page does while it is drawn so many times: elements that it makes, and changes of the document. */
function work(draws) {
  return evaluate(`new Promise((resolve) => {
    const done = { made: 0, changes: 0 };
    let draws = 0;
    new MutationObserver((records, observer) => {
      done.changes += records.length;
      for (const { addedNodes } of records) done.made += [...addedNodes].filter((node) => node.nodeType === 1).length;
      // What is drawn together is told together; numbers of the tiles change with each draw.
      if (!records.some(({ target }) => target.closest?.(".tiles"))) return;
      draws += 1;
      if (draws < ${Number(draws)}) return;
      observer.disconnect();
      resolve(done);
    }).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  })`);
}

const commands = {
  open,
  evaluate: ({ script }) => evaluate(script),
  until: async ({ script }) => {
    for (const end = Date.now() + PATIENCE; !(await evaluate(script).catch(whileLoading)); await new Promise((resolve) => setTimeout(resolve, 50))) {
      if (Date.now() > end) throw new Error("it did not come true");
    }
  },
  click: ({ selector }) => page.click(selector),
  fill: ({ selector, text }) => page.fill(selector, text),
  press: ({ key }) => page.keyboard.press(key),
  focus: ({ selector }) => page.focus(selector),
  select: ({ selector, value }) => page.selectOption(selector, value),
  dark: ({ on }) => page.emulateMedia({ colorScheme: on ? "dark" : "light" }),
  screenshot: async ({ path, full = true }) => { await page.screenshot({ path, fullPage: full }); },
  accessible,
  work: ({ draws }) => work(draws),
  misdeeds: () => [...foreign.map((url) => `a request to ${url}`), ...errors],
  sockets: () => sockets,
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { command, ...rest } = JSON.parse(line);
    answer = { ok: (await commands[command](rest)) ?? null };
  } catch (error) {
    answer = { error: String(error), page: await evaluate("document.body.innerText.slice(0, 3000)").catch(() => null) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
