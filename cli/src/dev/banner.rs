//! What `tickmesh dev` says when it is ready: that it is for development, who may do what, what is kept, what to try next.
//!
//! The first word is the address, for scripts.

use std::fmt;
use std::net::SocketAddr;

use tickmesh_cluster::config::{Anonymous, Config};

/// Fits into 80 columns as long as nobody configured a long address.
pub(super) struct Banner<'a> {
    /// Where the gateway is reached.
    pub(super) url: &'a str,
    /// Where it listens.
    pub(super) listening: SocketAddr,
    pub(super) config: &'a Config,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, listening, config } = self;
        writeln!(f, "{url}  tickmesh, development mode: open it in a browser")?;
        if config.dashboard.enabled {
            writeln!(f, "{url}/dashboard  the cluster, live")?;
        }
        writeln!(f)?;
        match config.auth.anonymous {
            Anonymous::Full if listening.ip().is_loopback() => {
                writeln!(f, "access   open: anyone who reaches this address may read, publish and operate")?;
                writeln!(f, "         without a token. It listens on loopback, for this machine only")?;
            }
            Anonymous::Full => {
                writeln!(f, "access   WARNING: other machines may reach {listening}; anyone there")?;
                writeln!(f, "         may read, publish and operate without a token")?;
            }
            Anonymous::Subscribe => {
                writeln!(f, "access   open rooms may be read without a token; publishing and operating")?;
                writeln!(f, "         need one, see tickmesh token --help")?;
            }
            Anonymous::None => writeln!(f, "access   with a token only, see tickmesh token --help")?,
        }
        writeln!(f, "data     {}", kept(config))?;
        writeln!(f, "publish  curl {url}/api/v1/publish \\")?;
        if config.auth.anonymous != Anonymous::Full {
            writeln!(f, "           -H \"Authorization: Bearer $TICKMESH_TOKEN\" \\")?;
        }
        writeln!(
            f,
            "           -d '{{\"room\":\"market_ACME\",\"event\":\"quote\",\"data\":{{\"price\":12.5}}}}'"
        )?;
        writeln!(f, "deploy   tickmesh node --help, tickmesh gateway --help, and docs/deploy.md")?;
        if config.log.level == Config::dev_defaults().log.level {
            writeln!(f, "log      warnings only; TICKMESH_LOG__LEVEL=info shows more")?;
        }
        writeln!(f, "stop     Ctrl-C")
    }
}

/// Where data are, and whether they outlive the process.
fn kept(config: &Config) -> String {
    let in_memory = config.broker.url.redis().is_none();
    let mut stores = Vec::new();
    if !config.postgres.url.expose().is_empty() {
        stores.push("users' data in PostgreSQL");
    }
    if !config.tdengine.dsn.expose().is_empty() {
        stores.push("ticks and bars in TDengine");
    }
    match (in_memory, stores.is_empty()) {
        (true, true) => "all in memory, and lost when this process stops".into(),
        (true, false) => format!("{}; all else in memory, and lost at the stop", stores.join(", ")),
        (false, _) => {
            stores.insert(0, "messages in Redis");
            stores.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use tickmesh_cluster::config::{BrokerUrl, Secret};

    use super::*;

    fn banner(listening: &str, change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::dev_defaults();
        change(&mut config);
        let (url, listening) = (format!("http://{listening}"), listening.parse().expect("an address"));
        Banner { url: &url, listening, config: &config }.to_string()
    }

    #[test]
    fn it_is_short_and_fits_into_80_columns() {
        let all = [Anonymous::Full, Anonymous::Subscribe, Anonymous::None];
        for (listening, anonymous) in
            ["127.0.0.1:8080", "192.168.100.100:10000"].iter().flat_map(|at| all.map(|who| (at, who)))
        {
            let banner = banner(listening, |config| config.auth.anonymous = anonymous);
            assert!(banner.lines().count() <= 12, "{banner}");
            assert!(banner.lines().all(|line| line.len() <= 80), "{banner}");
        }
    }

    #[test]
    fn who_may_do_what_is_what_is_configured() {
        let full = banner("127.0.0.1:8080", |_| {});
        assert!(full.contains("for this machine only") && !full.contains("WARNING"), "{full}");
        assert!(!full.contains("Bearer"), "{full}");
        for open in ["0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080"] {
            let open = banner(open, |_| {});
            assert!(open.contains("WARNING") && !open.contains("this machine only"), "{open}");
        }
        for (anonymous, word) in [(Anonymous::Subscribe, "need one"), (Anonymous::None, "token only")] {
            let some = banner("0.0.0.0:8080", |config| config.auth.anonymous = anonymous);
            assert!(some.contains(word) && !some.contains("WARNING"), "{some}");
            assert!(some.contains("Bearer $TICKMESH_TOKEN"), "{some}");
        }
    }

    #[test]
    fn what_is_lost_is_what_is_in_memory() {
        let data = |change: fn(&mut Config)| {
            let banner = banner("127.0.0.1:1", change);
            banner.lines().find_map(|line| line.strip_prefix("data     ").map(str::to_owned)).expect("a line")
        };
        assert_eq!(data(|_| {}), "all in memory, and lost when this process stops");
        let postgres = |config: &mut Config| config.postgres.url = Secret::new("postgres://u:pw@h/db");
        assert_eq!(data(postgres), "users' data in PostgreSQL; all else in memory, and lost at the stop");
        let redis = data(|config| config.broker.url = BrokerUrl::new("redis://:pw@h:1"));
        assert_eq!(redis, "messages in Redis");
    }
}
