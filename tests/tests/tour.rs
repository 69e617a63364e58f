//! The tour (docs/tour.md) works: its commands, run from top to bottom in one bash, print what stands below them.
//!
//! What the page's blocks mean: `sh` is run; `text` right after it is all that this prints, and without one it prints nothing. `…`
//! stands for anything within a line, a line with `…` alone for any lines. A comment before a block changes that:
//! `<!-- not run: REASON -->`, or `<!-- test instead: COMMAND -->`, for what would be downloaded.
//!
//! The tour starts a redis-server of its own, as `RedisServer` does, and has Python clients.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tickmesh_tests::{binary, free_address};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

const TOUR: &str = include_str!("../../docs/tour.md");
/// The ports on the page; the test takes free ones.
const PORTS: [&str; 6] = ["8080", "9000", "9001", "9002", "9443", "6390"];
/// Longest time for one block.
const PATIENCE: Duration = Duration::from_secs(100);
/// What the shell says after each block.
const END: &str = "-- end of the block --";

/// A block that is run.
#[derive(Debug, PartialEq)]
struct Step {
    /// Where it begins on the page.
    line: usize,
    script: String,
    /// Lines that it prints.
    expected: Vec<String>,
}

/// The blocks of a page that are run, in order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut comment, mut awaits_text): (Option<String>, _) = (None, false);
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<_> = lines
                .by_ref()
                .map(|(line, _)| line)
                .take_while(|line| *line != "```")
                .map(String::from)
                .collect();
            let instead = match comment.take() {
                None => None,
                Some(text) => match text.split_once(": ") {
                    Some(("not run", reason)) if !reason.is_empty() => {
                        awaits_text = false;
                        continue;
                    }
                    Some(("test instead", command)) => Some(command.to_owned()),
                    _ => panic!("line {number}: nobody knows what `{text}` means"),
                },
            };
            match language {
                "sh" => {
                    let script = instead.unwrap_or_else(|| body.join("\n"));
                    steps.push(Step { line: number, script, expected: Vec::new() });
                    awaits_text = true;
                }
                "text" if awaits_text => {
                    steps.last_mut().expect("there was one").expected = body;
                    awaits_text = false;
                }
                _ => panic!(
                    "line {number}: a block of {language:?} is neither run, nor said not to be, nor an output"
                ),
            }
        } else if !line.is_empty() {
            comment = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")).map(String::from);
        }
    }
    steps
}

/// Whether a line is as expected; `…` is anything.
fn is_like(line: &str, expected: &str) -> bool {
    let Some((first, others)) = expected.split_once('…') else { return line == expected };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = others.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether lines are as expected; a line of `…` is any lines.
fn are_like(lines: &[String], expected: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, others)) if first == "…" => {
            (0..=lines.len()).any(|skipped| are_like(&lines[skipped..], others))
        }
        Some((first, others)) => {
            lines.split_first().is_some_and(|(line, lines)| is_like(line, first) && are_like(lines, others))
        }
    }
}

/// Replaces numbers by others, where they stand alone.
fn with_ports(text: &str, ports: &HashMap<&str, String>) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_digit) {
        let number = &rest[at..];
        let end = number.find(|c| !is_digit(c)).unwrap_or(number.len());
        out.push_str(&rest[..at]);
        out.push_str(ports.get(&number[..end]).map_or(&number[..end], String::as_str));
        rest = &number[end..];
    }
    out + rest
}

/// A bash, as clean as one after a login; with all that it started it is killed when it is dropped.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
}

impl Shell {
    async fn start(folder: &Path, venv: &Path) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let variable = |name| std::env::var(name).unwrap_or_default();
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(folder)
            .env_clear()
            .envs([("PATH", variable("PATH")), ("HOME", variable("HOME")), ("LANG", "C.UTF-8".into())])
            .envs([("TMPDIR", directory.path()), ("TOUR_VENV", venv)])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash starts");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(b"exec 2>&1; set -e -o pipefail\n").await.expect("it listens");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, input, output, directory }
    }

    /// Runs a script in it: what it printed, and what went wrong.
    async fn run(&mut self, script: &str) -> (Vec<String>, Option<&'static str>) {
        let path = self.directory.path().join("block.sh");
        std::fs::write(&path, script.to_owned() + "\n").expect("it is written");
        let line = format!("source {} </dev/null; printf '\\n{END}\\n'\n", path.display());
        let end = Instant::now() + PATIENCE;
        let mut printed = Vec::new();
        if self.input.write_all(line.as_bytes()).await.is_err() {
            return (printed, Some("the shell has ended"));
        }
        loop {
            match timeout_at(end, self.output.next_line()).await {
                Ok(Ok(Some(line))) if line == END => break,
                Ok(Ok(Some(line))) => printed.push(line),
                Ok(_) => return (printed, Some("a command failed")),
                Err(_) => return (printed, Some("it takes too long")),
            }
        }
        // Of the end itself, where the output ended with its line.
        if printed.last().is_some_and(String::is_empty) {
            printed.pop();
        }
        (printed, None)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[tokio::test]
async fn the_tour_works() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root: PathBuf = tests.parent().expect("the project").into();
    let mut ports = HashMap::new();
    for port in PORTS {
        let free = loop {
            let free = free_address().port().to_string();
            if !ports.values().any(|taken| *taken == free) {
                break free;
            }
        };
        ports.insert(port, free);
    }
    let built = binary().parent().expect("a directory").display().to_string();
    let mut shell = Shell::start(&root, &tests.join("socketio").join("venv")).await;
    let steps = steps(TOUR);
    for address in steps.iter().flat_map(|step| step.script.split("127.0.0.1:").skip(1)) {
        assert!(
            PORTS.iter().any(|port| address.starts_with(port)) || address.starts_with("${port"),
            "no port of PORTS: {address}"
        );
    }
    for Step { line, script, expected } in steps {
        let script = with_ports(&script.replace("$PWD/target/release", &built), &ports);
        let expected: Vec<_> = expected.iter().map(|line| with_ports(line, &ports)).collect();
        let (printed, failure) = shell.run(&script).await;
        let differs = (!are_like(&printed, &expected)).then_some("it prints something else");
        if let Some(problem) = failure.or(differs) {
            let (printed, expected) = (printed.join("\n"), expected.join("\n"));
            panic!(
                "docs/tour.md, line {line}: {problem}\n{script}\n--- it printed\n{printed}\n--- expected\n{expected}"
            );
        }
    }
}

#[test]
fn what_a_page_says_is_understood() {
    let page = "a\n```sh\none\ntwo\n```\n\n```text\nout …\n```\n<!-- not run: why -->\n```js\nno\n```\n\
                <!-- test instead: three -->\n```sh\nno\n```\n";
    let step = |line, script: &str, expected: &[&str]| Step {
        line,
        script: script.into(),
        expected: expected.iter().map(|&line| line.into()).collect(),
    };
    assert_eq!(steps(page), [step(2, "one\ntwo", &["out …"]), step(15, "three", &[])]);

    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    for (printed, expected) in
        [("", ""), ("a1b", "a…b"), ("ab", "a…b…"), ("a\nb\nc", "…\nc"), ("c", "…\nc\n…")]
    {
        assert!(are_like(&lines(printed), &lines(expected)), "{printed:?} is {expected:?}");
    }
    for (printed, expected) in
        [("a", ""), ("", "a"), ("a1c", "a…b"), ("aba", "aba…a"), ("a\nb", "a"), ("a\nb", "…\na")]
    {
        assert!(!are_like(&lines(printed), &lines(expected)), "{printed:?} is not {expected:?}");
    }

    let ports = HashMap::from([("80", "1234".to_owned())]);
    assert_eq!(with_ports("80 :80/ 8080 180 x80", &ports), "1234 :1234/ 8080 180 x1234");
}
