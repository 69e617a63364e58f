//! Letters by Redis' publish and subscribe.

use async_trait::async_trait;

use super::{Bus, To};
use crate::broker::BrokerError;
use crate::redis::{Commands, Push};

/// Sends letters.
pub struct RedisBus {
    commands: Commands,
    /// Letters come as long as somebody holds this.
    _push: Push,
}

impl RedisBus {
    pub(crate) fn new(commands: Commands, push: Push) -> Self {
        Self { commands, _push: push }
    }
}

/// The channels on which a member gets letters.
pub(crate) fn channels(id: &str) -> [String; 4] {
    [To::Members, To::Subscriptions, To::Everybody, To::Member(id)].map(channel)
}

fn channel(to: To<'_>) -> String {
    match to {
        To::Members => "tm:members".into(),
        To::Subscriptions => "tm:subs".into(),
        To::Everybody => "tm:everybody".into(),
        To::Member(id) => format!("tm:member:{id}"),
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn send(&self, to: To<'_>, text: &str) -> Result<(), BrokerError> {
        let channel = channel(to);
        let sent = self.commands.get()?.publish(&channel, text.as_bytes()).await;
        sent.map_err(|error| self.commands.failed(&channel, &error))
    }
}
