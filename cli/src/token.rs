//! `tickmesh token`: a JSON Web Token for HS256.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use tickmesh_cluster::config::{Anonymous, Config, JwtAlgorithm};
use tickmesh_edge::jwt::encode;
use tickmesh_protocol::identity::{Grants, Role};
use tickmesh_protocol::room::{Pattern, RoomName};

use crate::args::{RoleArg, TokenArgs};
use crate::config::{self, Unusable};

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    role: Role,
    iat: u64,
    exp: u64,
    /// By which it can be revoked (RFC 7519 §4.1.7).
    jti: String,
    rooms: Grants,
}

/// Prints the token.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    // A token can be made where no node could be started.
    let mut defaults = Config::node_defaults();
    defaults.auth.anonymous = Anonymous::Subscribe;
    let config = config::load(
        &defaults,
        args.config.as_deref(),
        [("--secret", "auth.jwt_secret", args.secret.clone())],
    )?;
    if config.auth.jwt_algorithm != JwtAlgorithm::Hs256 {
        let text =
            "auth.jwt_algorithm: tokens are made for HS256 only; a node so configured would refuse them";
        return Err(Unusable(text.into()).into());
    }
    let secret = config.auth.jwt_secret.expose();
    if secret.is_empty() {
        let text = "no secret: give --secret, or set auth.jwt_secret (TICKMESH_AUTH__JWT_SECRET)";
        return Err(Unusable(text.into()).into());
    }
    if args.user.is_empty() {
        return Err(Unusable("--user is empty".into()).into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let too_long = || Unusable("--expires: expected a time such as 1h or 30d".into());
    // Beyond what a 64-bit time of other languages can hold, a token would be refused as malformed.
    let exp = now
        .checked_add(args.expires.as_secs())
        .filter(|exp| i64::try_from(*exp).is_ok())
        .ok_or_else(too_long)?;
    let role = match args.role {
        RoleArg::User => Role::User,
        RoleArg::Operator => Role::Operator,
        RoleArg::Publisher => Role::Publisher,
    };
    let rooms = Grants {
        subscribe: patterns("--subscribe", &args.subscribe)?,
        publish: patterns("--publish", &args.publish)?,
    };
    tickmesh_bench::out::line(sign(&args.user, role, rooms, (now, exp), secret)?);
    Ok(())
}

/// A token for HS256, from a time until another, in seconds since 1970.
pub(crate) fn sign(
    user: &str,
    role: Role,
    rooms: Grants,
    (iat, exp): (u64, u64),
    secret: &str,
) -> anyhow::Result<String> {
    let jti = uuid::Uuid::now_v7().simple().to_string();
    let claims = Claims { sub: user, role, iat, exp, jti, rooms };
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// A grant that no room's name can match would be silently without effect.
fn patterns(flag: &str, texts: &[String]) -> Result<Vec<Pattern>, Unusable> {
    let pattern = |text: &String| {
        let good = text == "*" || RoomName::new(text.strip_suffix('*').unwrap_or(text)).is_ok();
        let bad =
            || Unusable(format!("{flag} {text}: expected a room's name, or the start of one followed by *"));
        good.then(|| Pattern(text.clone())).ok_or_else(bad)
    };
    texts.iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_that_matches_no_room_is_refused() {
        for good in ["*", "market_*", "market_600519"] {
            assert!(patterns("--subscribe", &[good.to_owned()]).is_ok(), "{good}");
        }
        for bad in ["", "mar ket*", "a*b", "**", "raum_\u{fc}*"] {
            let error = patterns("--publish", &[bad.to_owned()]).err().map(|error| error.to_string());
            assert!(
                error.is_some_and(|error| error.starts_with(&format!("--publish {bad}: expected"))),
                "{bad}"
            );
        }
    }
}
