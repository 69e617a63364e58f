// A large cluster that is not there, for what no machine of a test can start: fifty nodes and a thousand sessions, told to a page
// in place of its server's API and WebSocket. What it says has the shape that docs/protocol.md has.

/** Numbers that are the same in every run. */
function randomness(seed) {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296;
    return state / 4_294_967_296;
  };
}

export class Crowd {
  /** `shut`: whom it greets by name it tells nothing; "refused" says so, "away" is a server behind a proxy that does not answer. */
  constructor({ nodes, gateways, sessions, shut = null }) {
    this.shut = shut;
    this.greeted = false;
    this.random = randomness(7);
    const named = (kind, n) => Array.from({ length: n }, (_, i) => ({ id: `${kind}-${i + 1}`, kind, load: this.random() }));
    this.members = [...named("gateway", gateways), ...named("node", nodes)];
    this.nodes = nodes;
    this.sessions = sessions;
    this.started = Date.now() - 93_784_000;
    this.alarms = [];
  }

  vitals(member, at) {
    const wave = 0.75 + 0.25 * Math.sin(at / 40_000 + member.load * 6);
    const share = Math.round((this.sessions / this.nodes) * wave * (0.8 + 0.4 * member.load));
    const both = {
      id: member.id, kind: member.kind, version: "0.1.0", zone: "", address: "10.0.0.3:8080", run: 1, started_at: this.started, at,
      draining: member.draining ?? false, ready: true, connections: share, cpu_percent: 15 + 70 * member.load * wave,
      memory_bytes: 60_000_000 + share * 5_000 + 300_000_000 * member.load, memory_limit_bytes: 536_870_912, memory_level: "normal", queue_delay_ms: 0.4, quality: 96 - 8 * member.load,
    };
    if (member.kind === "gateway") {
      return { ...both, clients: this.sessions / 2, links: this.sessions / 2, nodes_known: this.nodes, moves_per_s: 0, takeovers_per_s: 0, pause_ms: { p50: null, p99: null } };
    }
    const rate = 120 * wave, spread = this.random();
    return {
      ...both, sessions: share, subscriptions: share * 4, rooms: 12, published_per_s: rate / this.nodes, delivered_per_s: rate * share,
      sent_bytes_per_s: rate * share * 180, received_per_s: 12, conflated_per_s: 4, errors_per_s: 0, refused_per_s: 0, slow_disconnects_per_s: 0, resyncs_per_s: 0,
      latency_ms: { p50: 1 + spread, p95: 4 + 2 * spread, p99: 8 + 6 * spread * wave }, market_latency_ms: { p95: 4 }, flush_window_ms: 0,
      quality_counts: [0, 0, 0, 1, 0, 1, 2, 3, Math.round(share * 0.1), Math.round(share * 0.85)], redis_up: true,
      stores: { users: { up: true, connections: 3, max: 16 }, series: { up: true, connections: 2, max: 8 } }, market_newest_at: at - 90,
      top_rooms: Array.from({ length: 20 }, (_, i) => ({ room: `market_SYMBOL${i + 1}`, messages_per_s: (20 - i) * wave, subscribers: Math.ceil(share / (i + 1)) })),
    };
  }

  session(i) {
    const node = this.members.filter(({ kind }) => kind === "node")[i % this.nodes];
    const state = i % 97 === 0 ? "broken" : i % 31 === 0 ? "stale" : i % 5 === 0 ? "idle" : "active";
    return {
      session_id: `01987b3c-5d4e-7000-8000-${i.toString(16).padStart(12, "0")}`, user_id: `user${i % 340}`, node_id: node.id, protocol: i % 3 ? "json" : "msgpack",
      remote: `10.1.${i >> 8}.${i & 255}:5${1000 + (i % 9000)}`, state, connected_at: this.started + i * 9_000, rooms: ["market_EURUSD", "market_ACME", `user_user${i % 340}`],
      messages_in: i, notifications_out: i * 37, conflated: i % 11, queued_bytes: i % 50 === 0 ? 20_480 : 0, round_trip_ms: i % 7 ? 3 + (i % 40) : null, quality: 100 - (i % 30),
    };
  }

  api(path) {
    const [resource, id] = path.split("/");
    const report = (member) => ({ ...this.vitals(member, Date.now()), messages_per_s: 0 });
    const of = (kind) => this.members.filter((member) => member.kind === kind).map(report);
    switch (resource) {
      case "me": return { user_id: "ann", role: "operator", expires_at: null, operator: true };
      case "cluster": return { node_id: "node-1", nodes: of("node"), gateways: of("gateway") };
      case "alarms": return { alarms: this.alarms, rules: [], evaluator: "node-1" };
      case "sessions": {
        const all = Array.from({ length: this.sessions }, (_, i) => this.session(i));
        return id ? all.find(({ session_id }) => session_id === id) : { total: this.sessions, sessions: all.slice(0, 1_000), unanswered: [] };
      }
      default: return {};
    }
  }

  /** Takes the place of the server for one page. */
  async serve(page) {
    await page.route(/\/api\/v1\//, (route) => {
      const path = new URL(route.request().url()).pathname.split("/api/v1/")[1];
      if (this.shut && (path !== "me" || this.greeted)) {
        if (this.shut === "away") return route.fulfill({ status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>" });
        return route.fulfill({ status: 401, json: { error_code: "AUTH_REQUIRED", error_message: "a token or an API key is needed" } });
      }
      this.greeted = true;
      return route.fulfill({ json: this.api(path) });
    });
    await page.routeWebSocket(/\/ws\b/, (socket) => {
      if (this.shut) {
        socket.close({ code: this.shut === "away" ? 1011 : 4001 });
        return;
      }
      const send = (message) => socket.send(JSON.stringify(message));
      const followed = new Set();
      let seq = 0;
      const message = (room, event, data, key) => ({ type: "notification", room, event, seq: (seq += 1), timestamp: data.at, key, data });
      const cluster = (at) => this.members.map((member) => message("system_cluster", "vitals", this.vitals(member, at), member.id));
      socket.onMessage((text) => {
        const asked = JSON.parse(text);
        if (asked.type === "ping") send({ type: "pong", timestamp: asked.timestamp });
        if (asked.type !== "subscribe") return;
        followed.add(asked.room);
        let messages = [];
        if (asked.room === "system_cluster") {
          const seconds = Math.floor((asked.history ?? 0) / this.members.length);
          for (let ago = seconds; ago > 0; ago -= 1) messages.push(...cluster(Date.now() - ago * 1_000));
        }
        if (asked.room === "system_events") messages = this.events().map(([event, data]) => message(asked.room, event, data));
        send({ type: "response", request_id: asked.request_id, success: true, data: { room: asked.room, epoch: "e", seq, recovered: false, messages } });
      });
      send({ type: "notification", room: "", event: "connected", seq: 0, server_time: Date.now(), data: { session_id: "s", node_id: "node-1" } });
      const timer = setInterval(() => {
        if (followed.has("system_cluster")) socket.send(JSON.stringify(cluster(Date.now())));
      }, 1_000);
      socket.onClose(() => clearInterval(timer));
    });
  }

  events() {
    const ago = (seconds) => Date.now() - seconds * 1_000;
    return [
      ["node_joined", { id: "node-3", at: ago(900), text: "node node-3 joined" }],
      ["node_draining", { id: "node-2", at: ago(240), text: "node node-2 drains" }],
      ["moved", { id: "gateway-1", gateway: "gateway-1", at: ago(238), cause: "move", sessions: 212, pause_ms: { p50: 6.2, p99: 21 }, text: "212 sessions moved" }],
      ["node_resumed", { id: "node-2", at: ago(200), text: "node node-2 takes clients again" }],
      ["node_lost", { id: "node-4", at: ago(42), text: "node node-4 is lost" }],
      ["moved", { id: "gateway-1", gateway: "gateway-1", at: ago(41), cause: "takeover", sessions: 308, pause_ms: { p50: 14, p99: 63 }, text: "308 sessions taken over" }],
    ];
  }
}
