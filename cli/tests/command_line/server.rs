//! Commands that talk to a server: which one, by whose right, and what they say when there is none.

use super::*;

/// All of them, with what they need besides.
const COMMANDS: [&[&str]; 13] = [
    &["feed", "--demo"],
    &["top", "--once"],
    &["cluster", "status"],
    &["node", "drain", "n1"],
    &["node", "resume", "n1"],
    &["bench", "rpc"],
    &["bench", "fanout"],
    &["bench", "publish"],
    &["bench", "idle"],
    &["bench", "soak"],
    &["bench", "roll", "--restart", "true"],
    &["bench", "kill", "--kill", "true"],
    &["bench", "during", "true"],
];

/// An address where nobody listens.
fn free() -> String {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", held.local_addr().expect("its address"))
}

#[test]
fn that_nobody_answers_is_said_at_once_and_plainly() {
    for command in COMMANDS {
        let url = free();
        let output = run(&[command, &["--via", &url]].concat());
        assert_eq!(
            (output.status.code(), text(&output.stdout), text(&output.stderr)),
            (
                Some(1),
                String::new(),
                format!(
                    "tickmesh: nobody answers at {url} (connection refused): start a server with \
                     \"tickmesh dev\", or name one with --via URL\n"
                )
            ),
            "{command:?}"
        );
    }
}

#[test]
fn a_name_that_means_nothing_is_said_to_be_one() {
    let url = "http://no-such-host.invalid:8080";
    for command in COMMANDS {
        let output = run(&[command, &["--via", url]].concat());
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{command:?}: {said}");
        assert!(said.starts_with(&format!("tickmesh: nobody answers at {url} (the name ")), "{said}");
    }
}

#[test]
fn the_same_flags_name_the_server_and_the_token_everywhere() {
    for command in COMMANDS {
        let mut help = vec!["help"];
        help.extend(command.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())));
        help.retain(|word| *word != "true");
        let shown = text(&run(&help).stdout);
        for flag in ["--via <URL>", "--token <TOKEN>", "TICKMESH_TOKEN"] {
            assert!(shown.contains(flag), "{help:?}: {flag} in {shown}");
        }
        for old in ["--to ", "--url ", "--at "] {
            assert!(!shown.contains(old), "{help:?}: {old} in {shown}");
        }
        // Scripts have the old names.
        for old in ["--to", "--url", "--at"] {
            let url = free();
            let output = run(&[command, &[old, &url]].concat());
            let said = text(&output.stderr);
            assert!(said.contains(&format!("nobody answers at {url} ")), "{command:?} {old}: {said}");
        }
        let output = run(&[command, &["--via", "127.0.0.1:8080"]].concat());
        assert_eq!(output.status.code(), Some(64), "{command:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_measurement_has_its_token_from_the_environment_too() {
    let env = [("TICKMESH_AUTH__JWT_SECRET", SECRET)];
    let server = Server::start(&["node", "--listen", "127.0.0.1:0"], &env);
    let token = text(&run(&["token", "--user", "u", "--role", "publisher", "--secret", SECRET]).stdout);
    let bench = |token: &str| {
        let mut command = tickmesh();
        command.args(["bench", "rpc", "--conns", "1", "--requests", "1", "--json"]);
        command.args(["--via", &format!("http://{}", server.address)]).env("TICKMESH_TOKEN", token);
        command.output().expect("the binary starts").status.code()
    };
    assert_eq!(bench(&token), Some(0), "with the line break at its end");
    assert_eq!(bench("not.a.token"), Some(1));
}
