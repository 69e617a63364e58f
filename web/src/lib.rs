//! The dashboard and the market page: what `build.rs` made of `ui/`, served from the binary.
//!
//! Invariants: nothing here needs or knows a token: the pages are the same for everybody, and what they show comes from the
//! API and `/ws`, which ask for one. A page loads nothing from another host and has no script or style in its text; the policy
//! that says so goes with every answer. It must not know gateways or nodes.

use std::hash::{DefaultHasher, Hash, Hasher};

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse, web};

macro_rules! page {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/pages/", $name))
    };
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
/// CSP level 3: nothing but what this host serves as a file. `data:` for the icon.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether the pages were built; otherwise what is served says why not.
#[must_use]
pub fn built() -> bool {
    !page!("dashboard.js").is_empty()
}

/// The market page, at `/`.
pub fn market(routes: &mut web::ServiceConfig) {
    file(routes, "/", HTML, page!("index.html"));
    file(routes, "/app.js", SCRIPT, page!("app.js"));
    file(routes, "/app.css", STYLE, page!("app.css"));
}

/// The dashboard, at `/dashboard`.
pub fn dashboard(routes: &mut web::ServiceConfig) {
    file(routes, "/dashboard", HTML, page!("dashboard.html"));
    file(routes, "/dashboard.js", SCRIPT, page!("dashboard.js"));
    file(routes, "/dashboard.css", STYLE, page!("dashboard.css"));
    // Its files are named beside it, so that it works under any path of a proxy.
    let slash =
        || async { HttpResponse::PermanentRedirect().insert_header((LOCATION, "../dashboard")).finish() };
    routes.route("/dashboard/", web::get().to(slash));
}

/// Serves one file. Browsers ask each time whether it is still the same, so that a page and its script fit together.
fn file(routes: &mut web::ServiceConfig, path: &str, kind: &'static str, body: &'static [u8]) {
    let tag = tag(body);
    let answer = move |request: HttpRequest| {
        let same = request.headers().get(IF_NONE_MATCH).is_some_and(|known| {
            known
                .to_str()
                .is_ok_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag))
        });
        let status = match (same, built()) {
            (true, _) => StatusCode::NOT_MODIFIED,
            (false, true) => StatusCode::OK,
            (false, false) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut answer = HttpResponse::build(status);
        answer
            .insert_header((CONTENT_TYPE, kind))
            .insert_header((CONTENT_SECURITY_POLICY, POLICY))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .insert_header((CACHE_CONTROL, "no-cache"))
            .insert_header((ETAG, tag.clone()));
        std::future::ready(if same { answer.finish() } else { answer.body(body) })
    };
    let resource = web::resource(path).route(web::get().to(answer.clone())).route(web::head().to(answer));
    routes.service(resource);
}

/// The same for the same bytes, in every process of one build.
fn tag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
