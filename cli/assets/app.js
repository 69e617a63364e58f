// The demo page: one WebSocket, one row per symbol. Shows what the protocol tells: state, recovery, conflation.
"use strict";

const $ = (id) => document.getElementById(id);
const POINTS = 60;
const PONG_TIMEOUT = 6000;
const WINDOW = 10000;
const rooms = new Map();   // room -> {epoch, seq, subscribed, from, told, least}
const asked = new Map();   // request_id -> room
const problems = new Map(); // what -> why, shown until it is over
const rows = new Map();    // room -> the row's elements and numbers
let socket = null;
let attempts = 0;
let greetings = 0, pinged = 0, answered = 0;
let received = 0, conflated = 0, lost = 0, lastCount = 0, anew = 0, unrecovered = 0, recovering = 0;
let nextId = 1;

function setState(kind, text) {
  const state = $("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opened = socket = new WebSocket(`${scheme}//${location.host}/ws?batch=1`);
  if (attempts > 0) setState("lost", "reconnecting");
  // Opening is held to the same time as a ping.
  answered = 0;
  pinged = performance.now();
  socket.onmessage = (event) => {
    if (opened !== socket) return;
    const message = JSON.parse(event.data);
    (Array.isArray(message) ? message : [message]).forEach(handle);
  };
  socket.onclose = (event) => {
    if (opened === socket) disconnected(event.code === 1006 ? "" : ` (${event.code} ${event.reason})`);
  };
}

function disconnected(why) {
  socket = null;
  asked.clear();
  for (const room of rooms.values()) room.subscribed = false;
  const wait = Math.min(10000, 250 * 2 ** attempts++) * (0.5 + Math.random() / 2);
  setState("lost", `connection lost${why}, next attempt in ${(wait / 1000).toFixed(1)} s`);
  setTimeout(connect, wait);
}

// A network that went away closes nothing: silence is what tells.
function watch() {
  if (!socket || pinged <= answered || performance.now() - pinged < PONG_TIMEOUT) return;
  const silent = socket;
  disconnected(", no answer");
  silent.close();
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function handle(message) {
  if (message.type === "notification") {
    if (message.room === "") return greeted(message.data);
    if (message.event === "resync") return resynced(message);
    received++;
    conflated += message.conflated || 0;
    const room = rooms.get(message.room);
    if (room) {
      room.seq = message.seq;
      room.told += 1 + (message.conflated || 0);
    }
    quote(message.room, message);
  } else if (message.type === "response" && asked.has(message.request_id)) {
    const name = asked.get(message.request_id);
    asked.delete(message.request_id);
    problems.delete(name);
    const { epoch, seq, recovered, messages } = message.data;
    const known = rooms.get(name);
    if (known.epoch) {
      recovering--;
      if (!recovered) { anew++; unrecovered++; }
    }
    begin(name, epoch, seq);
    for (const old of messages) quote(name, old);
    if (greetings > 1 && recovering === 0) {
      setState("connected", unrecovered ? `connected, ${unrecovered} rooms started anew` : "connected, recovered without a gap");
    }
  } else if (message.type === "error" && asked.has(message.request_id)) {
    // Asked for again with the next look for rooms.
    const name = asked.get(message.request_id);
    asked.delete(message.request_id);
    problems.set(name, `${message.error_code}: ${message.error_message}`);
    rooms.get(name).subscribed = false;
  } else if (message.type === "pong") {
    answered = performance.now();
    $("round-trip").textContent = `${(answered - pinged).toFixed(1)} ms`;
  }
}

function begin(name, epoch, seq) {
  rooms.set(name, { epoch, seq, subscribed: true, from: seq, told: 0, least: Infinity });
}

// `seq` travels by what was received or conflated. What is missing may still wait at the node for its turn under
// `max_rate`; what is missing all through a window will not come.
function countLost() {
  for (const room of rooms.values()) {
    if (Number.isFinite(room.least) && room.least > 0) {
      lost += room.least;
      room.told += room.least;
    }
    room.least = Infinity;
  }
}

function lookForLost() {
  for (const room of rooms.values()) {
    if (room.subscribed && room.epoch) room.least = Math.min(room.least, room.seq - room.from - room.told);
  }
}

function greeted(data) {
  attempts = 0;
  greetings++;
  answered = pinged;
  unrecovered = 0;
  recovering = [...rooms.values()].filter((room) => room.epoch).length;
  $("session").textContent = data.session_id;
  $("node").textContent = data.node_id;
  setState("connected", "connected");
  for (const name of rooms.keys()) subscribe(name);
  findRooms();
  ping();
}

function resynced(message) {
  anew++;
  begin(message.room, message.data.epoch, message.data.seq);
}

function subscribe(name) {
  const room = rooms.get(name);
  if (room.subscribed || !socket || socket.readyState !== WebSocket.OPEN) return;
  room.subscribed = true;
  const id = `s${nextId++}`;
  asked.set(id, name);
  const options = { delivery: "latest", max_rate: 10 };
  // A row that is there goes on where it stopped; a new one starts with some history for its trend.
  if (room.epoch) options.recover = { epoch: room.epoch, seq: room.seq };
  else options.history = POINTS;
  send({ type: "subscribe", request_id: id, room: name, ...options });
}

async function findRooms() {
  try {
    const answer = await fetch("/api/v1/rooms");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}: finding rooms needs auth.anonymous = "full"`);
    for (const { room } of (await answer.json()).rooms) {
      if (!room.startsWith("market_")) continue;
      if (!rooms.has(room)) rooms.set(room, { epoch: null, seq: 0, subscribed: false });
      subscribe(room);
    }
    problems.delete("rooms");
  } catch (error) {
    // While the connection is away its state says so already.
    if (socket && socket.readyState === WebSocket.OPEN) problems.set("rooms", error.message);
  }
}

// One ping at a time, so that a pong belongs to the latest.
function ping() {
  if (pinged > answered || !socket || socket.readyState !== WebSocket.OPEN) return;
  pinged = performance.now();
  send({ type: "ping", timestamp: Date.now() });
}

// ---- the table ----

function cell(row, kind, text) {
  const element = document.createElement(kind);
  if (text) element.textContent = text;
  row.append(element);
  return element;
}

function number(row) {
  const element = cell(row, "td");
  return { cell: element, value: cell(element, "span"), size: Object.assign(cell(element, "span"), { className: "size" }) };
}

function newRow(room, data) {
  const tr = document.createElement("tr");
  const symbol = cell(tr, "th", data.symbol || room.slice("market_".length));
  symbol.scope = "row";
  const exchange = cell(tr, "td", data.exchange);
  const [last, bid, ask] = [number(tr), number(tr), number(tr)];
  const trend = cell(tr, "td");
  const time = cell(tr, "td"), seq = number(tr);
  for (const element of [last.cell, bid.cell, ask.cell, time, seq.cell]) element.className = "number";
  for (const element of [exchange, last.cell, trend, time, seq.cell]) element.classList.add("wide");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  trend.append(svg);
  const row = { tr, last, bid, ask, time, seq, line, symbol: symbol.textContent, decimals: 0, values: {}, sizes: {}, conflated: 0, points: [], changed: true };
  rows.set(room, row);
  const after = [...rows.values()].filter((one) => one !== row && one.tr.parentNode)
    .sort((a, b) => a.symbol.localeCompare(b.symbol)).find((one) => one.symbol > row.symbol);
  $("quotes").insertBefore(tr, after ? after.tr : null);
  $("empty").hidden = true;
  return row;
}

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

function decimalsOf(number) {
  const [digits, exponent] = String(number).toLowerCase().split("e-");
  return Math.min(12, (digits.split(".")[1] || "").length + Number(exponent || 0));
}

function quote(room, message) {
  const data = message.data || {};
  const row = rows.get(room) || newRow(room, data);
  row.number = message.seq;
  row.at = message.timestamp;
  row.conflated += message.conflated || 0;
  for (const [name, size] of [["last", data.volume], ["bid", data.bid_volume], ["ask", data.ask_volume]]) {
    if (typeof size === "number") row.sizes[name] = size;
  }
  const mid = data.price ?? (data.bid_price !== undefined && data.ask_price !== undefined ? (data.bid_price + data.ask_price) / 2 : undefined);
  for (const [name, value] of [["last", data.price], ["bid", data.bid_price], ["ask", data.ask_price]]) {
    if (typeof value !== "number") continue;
    row.decimals = Math.max(row.decimals, decimalsOf(value));
    const before = row.values[name];
    row.values[name] = value;
    if (before !== undefined && before !== value) row[name + "Moved"] = value > before ? "up" : "down";
  }
  if (typeof mid === "number") {
    row.points.push(mid);
    if (row.points.length > POINTS) row.points.shift();
  }
  row.changed = true;
}

// Rows are drawn at most once a frame, however many messages came.
function draw() {
  for (const row of rows.values()) {
    if (!row.changed) continue;
    row.changed = false;
    for (const name of ["last", "bid", "ask"]) {
      const value = row.values[name];
      if (value === undefined) continue;
      const element = row[name].cell;
      row[name].value.textContent = value.toFixed(row.decimals);
      row[name].size.textContent = name in row.sizes ? row.sizes[name].toLocaleString("en", { maximumFractionDigits: 8 }) : "";
      const moved = row[name + "Moved"];
      if (moved) {
        row[name + "Moved"] = null;
        element.classList.remove("up", "down", "flash-up", "flash-down");
        element.classList.add(moved, `flash-${moved}`);
        setTimeout(() => element.classList.remove("flash-up", "flash-down"), 300);
      }
    }
    row.seq.value.textContent = row.number;
    row.seq.size.textContent = row.conflated || "";
    row.time.textContent = typeof row.at === "number" ? clock.format(row.at) : "";
    const low = Math.min(...row.points), span = Math.max(...row.points) - low || 1;
    const start = POINTS - row.points.length;
    row.line.setAttribute("points", row.points.map((p, i) => `${start + i},${(18 - (p - low) / span * 16).toFixed(2)}`).join(" "));
  }
  requestAnimationFrame(draw);
}

setInterval(() => {
  $("rate").textContent = received - lastCount;
  lastCount = received;
  $("received").textContent = received.toLocaleString("en");
  $("conflated").textContent = conflated.toLocaleString("en");
  $("reconnects").textContent = Math.max(0, greetings - 1);
  $("lost").textContent = lost.toLocaleString("en");
  $("anew").textContent = anew;
  const first = problems.entries().next();
  $("problem").hidden = first.done;
  $("problem").textContent = first.done ? "" : first.value.join(": ") + (problems.size > 1 ? ` (and ${problems.size - 1} more)` : "");
  watch();
}, 1000);
setInterval(lookForLost, 100);
setInterval(countLost, WINDOW);
setInterval(ping, 2000);
setInterval(findRooms, 5000);
connect();
requestAnimationFrame(draw);
