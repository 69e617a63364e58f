-- Users' data. Times are UTC milliseconds since 1970 as BIGINT, as in the protocol. Texts have bounds in bytes; the same ones
-- stand in store/src/relational/rules.rs, and hold with an encoding of UTF8.

-- API keys: only their SHA-256 is known.
CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 256),
    hash BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    user_id TEXT NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    role TEXT NOT NULL CHECK (role IN ('anonymous', 'user', 'publisher', 'operator')),
    grants JSONB NOT NULL,
    created_at BIGINT NOT NULL CHECK (created_at >= 0),
    expires_at BIGINT CHECK (expires_at >= 0)
);

-- Tokens that are void though they have not expired.
CREATE TABLE revoked_tokens (
    jti TEXT COLLATE "C" PRIMARY KEY CHECK (octet_length(jti) BETWEEN 1 AND 1024),
    expires_at BIGINT NOT NULL CHECK (expires_at >= 0)
);

CREATE INDEX revoked_tokens_expires_at ON revoked_tokens (expires_at);

-- Symbols that users saved; the ids give their order.
CREATE TABLE watchlist_entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    symbol TEXT COLLATE "C" NOT NULL CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    UNIQUE (user_id, symbol)
);

-- Price alerts. The last four columns are where an alert stands: side of the value (-1 below, 1 above, 0 not known),
-- whether it fires at the next chance, and the message at which it became so.
CREATE TABLE alerts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    symbol TEXT COLLATE "C" NOT NULL CHECK (octet_length(symbol) BETWEEN 1 AND 64),
    field TEXT NOT NULL CHECK (octet_length(field) BETWEEN 1 AND 64),
    op TEXT NOT NULL CHECK (op IN ('>', '<', '>=', '<=', 'crosses')),
    value DOUBLE PRECISION NOT NULL CHECK (value NOT IN ('NaN', 'Infinity', '-Infinity')),
    once BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL CHECK (created_at >= 0),
    active BOOLEAN NOT NULL DEFAULT TRUE,
    side SMALLINT NOT NULL DEFAULT 0 CHECK (side BETWEEN -1 AND 1),
    armed BOOLEAN NOT NULL DEFAULT FALSE,
    epoch TEXT CHECK (octet_length(epoch) BETWEEN 1 AND 256),
    seq BIGINT CHECK (seq >= 0),
    CHECK ((epoch IS NULL) = (seq IS NULL))
);

CREATE INDEX alerts_user ON alerts (user_id, id);
CREATE INDEX alerts_active_symbol ON alerts (symbol, id) WHERE active;

-- That alerts fired. What an acknowledged hit is kept for: the same one is not made again.
CREATE TABLE alert_hits (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id BIGINT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    user_id TEXT COLLATE "C" NOT NULL CHECK (octet_length(user_id) BETWEEN 1 AND 256),
    epoch TEXT COLLATE "C" NOT NULL CHECK (octet_length(epoch) BETWEEN 1 AND 256),
    seq BIGINT NOT NULL CHECK (seq >= 0),
    reached DOUBLE PRECISION NOT NULL CHECK (reached NOT IN ('NaN', 'Infinity', '-Infinity')),
    at BIGINT NOT NULL CHECK (at >= 0),
    told BOOLEAN NOT NULL DEFAULT FALSE,
    acknowledged_at BIGINT CHECK (acknowledged_at >= 0),
    UNIQUE (alert_id, epoch, seq)
);

CREATE INDEX alert_hits_pending ON alert_hits (user_id, id) WHERE acknowledged_at IS NULL;
CREATE INDEX alert_hits_acknowledged ON alert_hits (user_id, acknowledged_at) WHERE acknowledged_at IS NOT NULL;
CREATE INDEX alert_hits_untold ON alert_hits (id) WHERE NOT told AND acknowledged_at IS NULL;

-- Sessions that came and went.
CREATE TABLE session_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL CHECK (at >= 0),
    event TEXT NOT NULL CHECK (octet_length(event) <= 1024),
    session_id TEXT NOT NULL CHECK (octet_length(session_id) <= 1024),
    user_id TEXT COLLATE "C" NOT NULL CHECK (octet_length(user_id) <= 1024),
    node_id TEXT NOT NULL CHECK (octet_length(node_id) <= 1024),
    remote TEXT NOT NULL CHECK (octet_length(remote) <= 1024),
    reason TEXT NOT NULL CHECK (octet_length(reason) <= 1024)
);

CREATE INDEX session_events_at ON session_events (at, id);
CREATE INDEX session_events_user ON session_events (user_id, at, id);
