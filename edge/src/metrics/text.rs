//! The answer to whoever scrapes: OpenMetrics, or Prometheus' older text format for those who do not ask for that.

use actix_web::http::header::{ACCEPT, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse};
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::registry::Registry;

use super::Standing;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers with all that is registered, and the process's place in its cluster, in the format that the request accepts.
#[must_use]
pub fn answer(request: &HttpRequest, registry: &Registry, now: Standing) -> HttpResponse {
    let mut standing = Registry::with_prefix("tickmesh");
    standing.register_collector(Box::new(now));
    let mut text = String::with_capacity(32 * 1024);
    let written = encode_registry(&mut text, &standing).and_then(|()| encode(&mut text, registry));
    if written.is_err() {
        return HttpResponse::InternalServerError().finish();
    }
    let accept = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    let (kind, body) = if accept.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        (OPENMETRICS, text)
    } else {
        (PROMETHEUS, classic(&text))
    };
    HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).body(body)
}

/// The older format differs in that the names of counters end in `_total` everywhere, and in what it has not.
fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 1024);
    // HELP comes before TYPE, which alone tells that the name is a counter's.
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(said)) => help = Some((name, said)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let total = if kind == "counter" { "_total" } else { "" };
                if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                    text.extend(["# HELP ", name, total, " ", said, "\n"]);
                }
                text.extend(["# TYPE ", name, total, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_alike_in_the_older_format() {
        let openmetrics = "# HELP a_seconds The time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total 1.5\n# HELP b Those.\n# TYPE b gauge\nb{x=\"# y\"} 2\n# EOF\n";
        let expected = "# HELP a_seconds_total The time.\n# TYPE a_seconds_total counter\na_seconds_total 1.5\n\
            # HELP b Those.\n# TYPE b gauge\nb{x=\"# y\"} 2\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
