//! `tickmesh token`: a JSON Web Token for HS256.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use tickmesh_cluster::config::{Anonymous, Config};
use tickmesh_protocol::identity::{Grants, Role};
use tickmesh_protocol::room::Pattern;

use crate::args::{RoleArg, TokenArgs};
use crate::config::{self, Unusable};

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    role: Role,
    iat: u64,
    exp: u64,
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
    let secret = config.auth.jwt_secret.expose();
    if secret.is_empty() {
        let text = "no secret: give --secret, or set auth.jwt_secret (TICKMESH_AUTH__JWT_SECRET)";
        return Err(Unusable(text.into()).into());
    }
    if args.user.is_empty() {
        return Err(Unusable("--user is empty".into()).into());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let patterns = |names: &[String]| names.iter().cloned().map(Pattern).collect();
    let claims = Claims {
        sub: &args.user,
        role: match args.role {
            RoleArg::User => Role::User,
            RoleArg::Operator => Role::Operator,
            RoleArg::Publisher => Role::Publisher,
        },
        iat: now,
        exp: now + args.expires.as_secs(),
        rooms: Grants { subscribe: patterns(&args.subscribe), publish: patterns(&args.publish) },
    };
    println!("{}", encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))?);
    Ok(())
}
