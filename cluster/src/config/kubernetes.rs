//! `[kubernetes]`: settings of a process that runs as a Kubernetes pod.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[kubernetes]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KubernetesConfig {
    /// Milliseconds between two checks of the pod's deletion cost; 0 for never.
    pub pod_deletion_cost_ms: u64,
    /// The directory with `token`, `ca.crt` and `namespace` of the pod's service account.
    pub service_account: PathBuf,
}

impl Default for KubernetesConfig {
    /// No checks; the directory where Kubernetes mounts service accounts.
    fn default() -> Self {
        Self {
            pod_deletion_cost_ms: 0,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        }
    }
}
