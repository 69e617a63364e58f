//! Close codes: what a connection is told when the server ends it (RFC 6455 §7.4, and the application's own).

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum CloseCode {
    /// 1000: answers the client's own close.
    Normal,
    /// 1001: the server goes away; connect again.
    GoingAway,
    /// 1002: the bytes are not WebSocket frames.
    ProtocolError,
    /// 1003: a text frame where binary was agreed on, or the reverse.
    WrongFrameType,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1008: policy, such as the Origin or a limit.
    Policy,
    /// 1009: a message larger than `max_message_bytes`.
    TooBig,
    /// 1011: the server failed.
    Internal,
    /// 1013: overloaded, retry later.
    Overloaded,
    /// 4001: authentication failed.
    AuthFailed,
    /// 4002: the token expired and was not renewed.
    TokenExpired,
    /// 4003: the client read too slowly and its queue is full; it can recover by `epoch` and `seq`.
    SlowConsumer,
    /// 4004: idle too long; no pong came.
    Idle,
    /// 4005: disconnected by an operator.
    Disconnected,
}

impl CloseCode {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::WrongFrameType,
        Self::NotUtf8,
        Self::Policy,
        Self::TooBig,
        Self::Internal,
        Self::Overloaded,
        Self::AuthFailed,
        Self::TokenExpired,
        Self::SlowConsumer,
        Self::Idle,
        Self::Disconnected,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::WrongFrameType => 1003,
            Self::NotUtf8 => 1007,
            Self::Policy => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Overloaded => 1013,
            Self::AuthFailed => 4001,
            Self::TokenExpired => 4002,
            Self::SlowConsumer => 4003,
            Self::Idle => 4004,
            Self::Disconnected => 4005,
        }
    }

    /// A short label, for the close frame, logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going away",
            Self::ProtocolError => "protocol error",
            Self::WrongFrameType => "wrong frame type",
            Self::NotUtf8 => "not utf-8",
            Self::Policy => "policy",
            Self::TooBig => "message too big",
            Self::Internal => "internal error",
            Self::Overloaded => "overloaded",
            Self::AuthFailed => "authentication failed",
            Self::TokenExpired => "token expired",
            Self::SlowConsumer => "slow consumer",
            Self::Idle => "idle too long",
            Self::Disconnected => "disconnected by an operator",
        }
    }
}
