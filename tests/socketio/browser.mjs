// The real socket.io-client in headless Chromium, from a page of another origin: `node browser.mjs URL CHROMIUM`. Ends with
// status 0 when everything holds on every transport.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const [url, chromium] = process.argv.slice(2);
const client = createRequire(import.meta.url).resolve("socket.io-client/package.json");
const script = readFileSync(join(dirname(client), "dist/socket.io.min.js"));

// Runs in the browser.
async function inPage(url) {
  const told = [];
  for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
    const socket = io(url, { transports, forceNew: true });
    const connected = () => new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", reject);
    });
    await connected();
    const room = `market_page_${Math.random().toString(36).slice(2)}`;
    const { status } = await socket.timeout(60000).emitWithAck("subscribe", { room });
    const quote = new Promise((resolve) => socket.on("quote", resolve));
    const payload = { room, event: "quote", data: { price: 1.5 } };
    await socket.timeout(60000).emitWithAck("request", { request_id: "p", action: "publish", payload });
    const { seq, data } = await quote;
    const bytes = new Uint8Array([1, 2, 255]);
    const echo = await socket.timeout(60000).emitWithAck("request", { request_id: "e", action: "echo", payload: { bytes } });
    const last = transports[transports.length - 1];
    while (socket.io.engine.transport.name !== last) await new Promise((resolve) => setTimeout(resolve, 20));
    const again = connected();
    socket.io.engine.close();
    await again;
    told.push([transports.join("+"), status, seq, data.price, [...new Uint8Array(echo.data.bytes)].join(), socket.recovered].join(" "));
    socket.disconnect();
  }
  return told;
}

const page = `<script src="/client.js"></script><script>${inPage}
inPage(${JSON.stringify(url)}).then((told) => fetch("/told", { method: "POST", body: told.join("\\n") }),
  (error) => fetch("/told", { method: "POST", body: "FAILED " + error }));</script>`;
const expected = ["websocket", "polling", "polling+websocket"].map((name) => `${name} subscribed 1 1.5 1,2,255 true`);

const profile = mkdtempSync(join(tmpdir(), "tickmesh-browser-"));
let browser;
function end(status) {
  browser?.kill("SIGKILL");
  try { rmSync(profile, { recursive: true, force: true }); } catch { /* The browser may still be writing. */ }
  process.exit(status);
}
const server = createServer(async (request, response) => {
  if (request.url !== "/told") return response.end(request.url === "/client.js" ? script : page);
  let told = "";
  for await (const part of request) told += part;
  response.end();
  console.log(told);
  end(told === expected.join("\n") ? 0 : 1);
});
server.listen(0, "127.0.0.1", () => {
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", `--user-data-dir=${profile}`];
  browser = spawn(chromium, [...flags, `http://127.0.0.1:${server.address().port}/`], { stdio: "ignore" });
});
setTimeout(() => { console.error("the page told nothing"); end(1); }, 90_000);
