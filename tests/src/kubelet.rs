//! What a kubelet does to a pod that is deleted, done to a real process: the `preStop` hook of the manifest in this
//! repository, SIGTERM, and SIGKILL when `terminationGracePeriodSeconds` are over.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{NodeProcess, Sandbox, binary};

/// A kubelet gives a container so long between SIGTERM and SIGKILL, even if its hook took all of the grace.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Where the manifests have the configuration.
const MOUNTED: &str = "/etc/tickmesh/tickmesh.toml";

/// A Deployment of `deploy/k8s/base`.
#[derive(Debug)]
pub struct Manifest {
    /// What the container is started with.
    pub args: Vec<String>,
    /// What is done before it is told to stop.
    pub pre_stop: Hook,
    /// From then until it is killed.
    pub grace: Duration,
    /// The paths of the startup, liveness and readiness probes.
    pub probes: [String; 3],
}

/// A `preStop` hook.
#[derive(Debug, Clone)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A pause.
    Sleep(Duration),
}

/// How a pod ended.
#[derive(Debug)]
pub struct Termination {
    /// What the hook came to.
    pub hook: Result<(), String>,
    /// Connections that it still had after a hook that did its work; what it was told by SIGTERM had to move these.
    pub left: Option<u64>,
    /// It had to be killed.
    pub killed: bool,
}

/// Connections that a process counts.
async fn connections(process: &NodeProcess) -> u64 {
    let answer = Sandbox::http(process.address(), "GET", "/api/socketio-status", "", "").await;
    answer.json()["connections"].as_u64().unwrap_or(u64::MAX)
}

/// The directory with the manifests.
fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/k8s/base")
}

fn strings(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(text).collect()
}

/// With the file that the configuration is made from in place of where it is mounted.
fn here(words: Vec<String>) -> Vec<String> {
    let file = manifests().join("tickmesh.toml").display().to_string();
    words.into_iter().map(|word| if word == MOUNTED { file.clone() } else { word }).collect()
}

impl Manifest {
    /// Reads the one Deployment in `node.yaml` or `gateway.yaml`.
    ///
    /// # Panics
    /// When it is not as expected.
    #[must_use]
    pub fn read(file: &str) -> Self {
        let path = manifests().join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let deployment = documents.into_iter().find(|document| document["kind"] == "Deployment");
        let pod = &deployment.unwrap_or_else(|| panic!("{file}: no Deployment"))["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let pre_stop = &container["lifecycle"]["preStop"];
        let pre_stop = match pre_stop["sleep"]["seconds"].as_u64() {
            Some(seconds) => Hook::Sleep(Duration::from_secs(seconds)),
            None => Hook::Exec(here(strings(&pre_stop["exec"]["command"]))),
        };
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or_else(|| panic!("{pod}"));
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| {
            container[probe]["httpGet"]["path"].as_str().unwrap_or_else(|| panic!("{probe}")).to_owned()
        });
        Self { args: here(strings(&container["args"])), pre_stop, grace: Duration::from_secs(grace), probes }
    }

    /// Starts a container. Where it listens, and what a test cannot have as a pod has it, is overridden.
    #[must_use]
    pub fn start(&self, id: &str, broker: &str, environment: &[(&str, &str)]) -> NodeProcess {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut all =
            vec![("TICKMESH_SERVER__METRICS_LISTEN", ""), ("TICKMESH_KUBERNETES__POD_DELETION_COST_MS", "0")];
        all.extend_from_slice(environment);
        NodeProcess::run(&args, id, broker, &all)
    }

    /// Deletes the pod. The hook has the container's environment, and this.
    pub async fn terminate(&self, pod: &mut NodeProcess, environment: &[(&str, &str)]) -> Termination {
        let deleted = Instant::now();
        let hook = timeout(self.grace, self.hook(pod, environment)).await;
        let hook = hook.unwrap_or_else(|_| Err("it takes longer than the grace".into()));
        let rest = self.grace.saturating_sub(deleted.elapsed()).max(LEAST_GRACE);
        let left = if hook.is_ok() { Some(connections(pod).await) } else { None };
        pod.signal("-TERM");
        let killed = !pod.ended_within(rest).await;
        if killed {
            pod.kill();
        }
        Termination { hook, left, killed }
    }

    async fn hook(&self, pod: &NodeProcess, environment: &[(&str, &str)]) -> Result<(), String> {
        let command = match &self.pre_stop {
            Hook::Sleep(pause) => {
                sleep(*pause).await;
                return Ok(());
            }
            Hook::Exec(command) => command,
        };
        let [program, args @ ..] = command.as_slice() else { return Err("no command".into()) };
        assert_eq!(program, "/usr/bin/tickmesh", "what the image has");
        let output = tokio::process::Command::new(binary())
            .args(args)
            .env("TICKMESH_NODE__ID", pod.id())
            .env("TICKMESH_NODE__LISTEN", pod.address().to_string())
            .env("TICKMESH_AUTH__JWT_SECRET", crate::SECRET)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}
