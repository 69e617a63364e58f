//! The demo page: what is published, as a browser sees it.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

/// The page and what it is made of: no script, style or connection but its own.
pub(crate) fn routes(routes: &mut web::ServiceConfig) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let file = |kind: &'static str, body: &'static str| {
        web::get().to(move || async move {
            HttpResponse::Ok()
                .insert_header((CONTENT_TYPE, kind))
                .insert_header((CONTENT_SECURITY_POLICY, POLICY))
                .insert_header((CACHE_CONTROL, "no-cache"))
                .body(body)
        })
    };
    routes
        .route("/", file("text/html; charset=utf-8", include_str!("../assets/index.html")))
        .route("/app.js", file("text/javascript; charset=utf-8", include_str!("../assets/app.js")))
        .route("/app.css", file("text/css; charset=utf-8", include_str!("../assets/app.css")));
}
