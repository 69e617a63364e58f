// The demo page: one WebSocket, one row per symbol. Shows what the protocol tells: state, recovery, conflation.
"use strict";

const $ = (id) => document.getElementById(id);
const POINTS = 60;
const rooms = new Map();   // room -> {epoch, seq, subscribed}
const rows = new Map();    // room -> the row's elements and numbers
let socket = null;
let attempts = 0;
let received = 0, conflated = 0, reconnects = 0, lastCount = 0, unrecovered = 0;
let nextId = 1;

function setState(kind, text) {
  const state = $("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws?batch=1`);
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    (Array.isArray(message) ? message : [message]).forEach(handle);
  };
  socket.onclose = (event) => {
    for (const room of rooms.values()) room.subscribed = false;
    const wait = Math.min(10000, 250 * 2 ** attempts++) * (0.5 + Math.random() / 2);
    const why = event.code === 1006 ? "" : ` (${event.code} ${event.reason})`;
    setState("lost", `connection lost${why}, next attempt in ${(wait / 1000).toFixed(1)} s`);
    reconnects++;
    setTimeout(connect, wait);
  };
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
    if (room) room.seq = message.seq;
    quote(message.room, message);
  } else if (message.type === "response" && message.data && message.data.epoch) {
    const { room, epoch, seq, recovered, messages } = message.data;
    const known = rooms.get(room);
    if (known && known.epoch && !recovered) unrecovered++;
    rooms.set(room, { epoch, seq, subscribed: true });
    for (const old of messages) quote(room, old);
    if (reconnects > 0) setState("connected", unrecovered ? `connected, ${unrecovered} rooms started anew` : "connected, recovered without a gap");
  } else if (message.type === "pong") {
    $("round-trip").textContent = `${Math.max(0, performance.now() - message.timestamp).toFixed(1)} ms`;
  }
}

function greeted(data) {
  attempts = 0;
  unrecovered = 0;
  $("session").textContent = data.session_id;
  $("node").textContent = data.node_id;
  setState("connected", "connected");
  for (const name of rooms.keys()) subscribe(name);
  findRooms();
  ping();
}

function resynced(message) {
  rooms.set(message.room, { epoch: message.data.epoch, seq: message.data.seq, subscribed: true });
}

function subscribe(name) {
  const room = rooms.get(name);
  if (room.subscribed) return;
  room.subscribed = true;
  const options = { delivery: "latest", max_rate: 10 };
  // A row that is there goes on where it stopped; a new one starts with some history for its trend.
  if (room.epoch) options.recover = { epoch: room.epoch, seq: room.seq };
  else options.history = POINTS;
  send({ type: "subscribe", request_id: `s${nextId++}`, room: name, ...options });
}

async function findRooms() {
  try {
    const answer = await fetch("/api/v1/rooms");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    for (const { room } of (await answer.json()).rooms) {
      if (!room.startsWith("market_") || rooms.has(room)) continue;
      rooms.set(room, { epoch: null, seq: 0, subscribed: false });
      subscribe(room);
    }
  } catch (error) {
    console.warn("rooms:", error.message);
  }
}

const ping = () => send({ type: "ping", timestamp: performance.now() });

// ---- the table ----

function cell(row, kind, text) {
  const element = document.createElement(kind);
  if (text) element.textContent = text;
  row.append(element);
  return element;
}

function newRow(room, data) {
  const tr = document.createElement("tr");
  const symbol = cell(tr, "th", data.symbol || room.slice("market_".length));
  symbol.scope = "row";
  const exchange = cell(tr, "td", data.exchange);
  const [last, bid, ask] = [cell(tr, "td"), cell(tr, "td"), cell(tr, "td")];
  const trend = cell(tr, "td");
  const seq = cell(tr, "td");
  for (const element of [last, bid, ask, seq]) element.className = "number";
  for (const element of [exchange, last, trend, seq]) element.classList.add("wide");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  trend.append(svg);
  const row = { tr, last, bid, ask, seq, line, symbol: symbol.textContent, decimals: 0, values: {}, points: [], changed: true };
  rows.set(room, row);
  const after = [...rows.values()].filter((one) => one !== row && one.tr.parentNode)
    .sort((a, b) => a.symbol.localeCompare(b.symbol)).find((one) => one.symbol > row.symbol);
  $("quotes").insertBefore(tr, after ? after.tr : null);
  $("empty").hidden = true;
  return row;
}

function decimalsOf(number) {
  const [digits, exponent] = String(number).toLowerCase().split("e-");
  return Math.min(12, (digits.split(".")[1] || "").length + Number(exponent || 0));
}

function quote(room, message) {
  const data = message.data || {};
  const row = rows.get(room) || newRow(room, data);
  row.number = message.seq;
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
      const element = row[name];
      element.textContent = value.toFixed(row.decimals);
      const moved = row[name + "Moved"];
      if (moved) {
        row[name + "Moved"] = null;
        element.classList.remove("up", "down", "flash-up", "flash-down");
        element.classList.add(moved, `flash-${moved}`);
        setTimeout(() => element.classList.remove("flash-up", "flash-down"), 300);
      }
    }
    row.seq.textContent = row.number;
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
  $("reconnects").textContent = reconnects;
}, 1000);
setInterval(ping, 2000);
setInterval(findRooms, 5000);
connect();
requestAnimationFrame(draw);
