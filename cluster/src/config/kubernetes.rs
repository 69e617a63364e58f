//! What a process does where it runs as a pod of Kubernetes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[kubernetes]`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KubernetesConfig {
    /// Milliseconds between two looks at whether the pod's deletion cost is still right; 0 for never.
    pub pod_deletion_cost_ms: u64,
    /// The directory with `token`, `ca.crt` and `namespace` of the pod's service account.
    pub service_account: PathBuf,
}

impl Default for KubernetesConfig {
    /// Off; where Kubernetes mounts service accounts.
    fn default() -> Self {
        Self {
            pod_deletion_cost_ms: 0,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        }
    }
}
