//! What a process says when it starts, or cannot.

use super::*;

/// What `dev` prints, to its last line.
fn banner(server: &mut Server) -> String {
    let mut text = server.first.clone();
    while !text.lines().any(|line| line.starts_with("stop")) {
        assert!(server.stdout.read_line(&mut text).expect("it reads") > 0, "the last line: {text}");
    }
    text
}

#[test]
fn without_a_command_it_says_what_it_is_and_what_to_try() {
    let mut server = Server::start(&[], &[("TICKMESH_NODE__LISTEN", "127.0.0.1:0")]);
    let said = banner(&mut server);
    let url = format!("http://{}", server.address);
    assert!(said.starts_with(&format!("{url}  tickmesh, development mode")), "{said}");
    for told in [
        format!("{url}/dashboard").as_str(),
        "anyone who reaches this address may read, publish and operate",
        "loopback",
        "in memory, and lost when this process stops",
        "tickmesh node --help",
        "Ctrl-C",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert!(said.lines().count() <= 11 && said.lines().all(|line| line.len() <= 80), "{said}");
    // What it names can be done, as it stands there.
    let path =
        said.split_once(&format!("curl {url}")).expect("a command").1.split(' ').next().expect("a path");
    let body = said.split_once("-d '").expect("a body").1.split('\'').next().expect("its end");
    let (status, answer) = server.post(path, body);
    assert!(status == 200 && answer.contains("\"seq\":1"), "{status}: {answer}");

    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_log_does_not_drown_what_dev_says() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let kept = log.reopen().expect("the file again");
    let mut server = Server::start_logged(&["dev", "--listen", "0"], &[], kept.into());
    banner(&mut server);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let said = std::fs::read_to_string(log.path()).expect("its log");
    // A machine may give reason for warnings.
    assert!(!said.contains(" INFO "), "{said}");
}

#[test]
fn an_address_that_is_taken_is_named_with_the_way_out() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("its address").to_string();
    // A gateway looks for its Redis after it has found its own place.
    let gateway = [("TICKMESH_BROKER__URL", "redis://127.0.0.1:1"), ("TICKMESH_CLUSTER__SECRET", SECRET)];
    let metrics = [("TICKMESH_SERVER__METRICS_LISTEN", &*address)];
    let listen = |address: &str| {
        format!(
            "tickmesh: cannot listen on {address}: another process listens there; choose another address with --listen, "
        )
    };
    for (args, env, told) in [
        (&["dev", "--listen", &address][..], &[][..], listen(&address)),
        (&["node", "--listen", &address], &[], listen(&address)),
        (&["gateway", "--listen", &address], &gateway, listen(&address)),
        (&["bench", "baseline", "--listen", &address], &[], listen(&address)),
        (
            &["node", "--listen", "127.0.0.1:0"],
            &metrics,
            format!(
                "tickmesh: server.metrics_listen: cannot listen on {address}: another process listens there; "
            ),
        ),
    ] {
        let output = tickmesh().args(args).envs(env.iter().copied()).output().expect("the binary starts");
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""), "{args:?}: {said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with(&told) && last.contains("or stop that process"), "{args:?}: {said}");
    }
}

#[test]
fn counters_of_dev_can_have_an_address_of_their_own() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let metrics = free.to_string();
    let env = [("TICKMESH_SERVER__METRICS_LISTEN", &*metrics)];
    let mut server = Server::start(&["dev", "--listen", "127.0.0.1:0", "--nodes", "2"], &env);
    server.address = metrics;
    assert_eq!(server.get("/metrics").0, 200);
}

#[test]
fn a_port_alone_is_one_of_this_machine() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[node]\nlisten = \"localhost:0\"\n").expect("written");
    let config = file.path().to_str().expect("a path");
    let flags = ["0", ":0", "localhost:0"].map(|listen| (["--listen", listen], [("TICKMESH_NODE__ID", "n")]));
    let others = [
        (["--id", "n"], [("TICKMESH_NODE__LISTEN", ":0")]),
        (["--config", config], [("TICKMESH_NODE__ID", "n")]),
    ];
    for (args, env) in flags.into_iter().chain(others) {
        let server = Server::start(&[&["node"][..], &args].concat(), &env);
        assert!(server.address.starts_with("127.0.0.1:"), "{args:?}: {}", server.address);
        let port = server.address.rsplit_once(':').expect("a port").1;
        assert_eq!(health(&["--listen", port], &[]), (Some(0), "ok\n".into()));
    }
    for bad in ["nowhere", "localhost", "example.com:80", "99999", ""] {
        for command in [&["dev"][..], &["node"], &["gateway"], &["health"], &["bench", "baseline"]] {
            let output = run(&[command, &["--listen", bad]].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{command:?} {bad}: {said}");
            assert!(said.contains("an IP address and port"), "{command:?} {bad}: {said}");
        }
    }
}

#[test]
fn a_reader_that_is_gone_is_no_fault_of_the_command() {
    for args in [&["config", "default"][..], &["token", "--user", "ann", "--secret", SECRET]] {
        let mut command = tickmesh();
        let mut child =
            command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        // As `| head` does when it has what it wants.
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}
