"""Checks deploy/k8s: see `check`, which starts it with what it needs."""

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RULES = ROOT / "deploy/prometheus/rules/tickmesh.yml"
METRICS = ROOT / "docs/metrics.md"
PROMETHEUS_RULE = Path("components/monitoring/prometheus-rule.yaml")

# The oldest that has all that is used (`preStop.sleep`), and the newest whose schemas are known.
VERSIONS = ["1.30", "1.37"]
# Kinds that come with operators; their schemas are not Kubernetes'. What is in them is checked below.
CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
# Seconds between the end of what a pod does before it goes, and SIGKILL.
MARGIN = 10

failures = []


def expect(good, text):
    if not good:
        failures.append(text)


def prometheus_rule():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tickmesh"},
        "spec": {"groups": groups},
    }
    head = "# Made by `tests/k8s/check --write` from deploy/prometheus/rules/tickmesh.yml, which has the comments.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, width=120)


def render(directory):
    kubectl = HERE / "venv/bin/kubectl"
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True)
    if done.returncode != 0 or done.stderr:
        sys.exit(f"{directory}: {done.stderr}")
    return done.stdout


def variants(tree):
    """Each overlay, and the production overlay with each component that it names but does not use."""
    for overlay in sorted((tree / "overlays").iterdir()):
        yield overlay.name, render(overlay)
    used = yaml.safe_load((tree / "overlays/production/kustomization.yaml").read_text())["components"]
    for component in sorted((tree / "components").iterdir()):
        if f"../../components/{component.name}" in used:
            continue
        overlay = tree / "overlays" / f"production-{component.name}"
        overlay.mkdir()
        parts = {"resources": ["../production"], "components": [f"../../components/{component.name}"]}
        # A component's objects belong into the namespace of the overlay that uses it.
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": "tickmesh", **parts}))
        yield f"production with {component.name}", render(overlay)


def validate(name, documents):
    for document in documents:
        if document["kind"] in CUSTOM:
            continue
        what = f"{name}: {document['kind']} {document['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:  # whatever it finds is one
                failures.append(f"{what}: Kubernetes {version}: {error}")


def seconds(text):
    """A time as the command line takes it: 75s, 1m, 1m30s."""
    parts = re.findall(r"(\d+)([smh])", text)
    assert parts and "".join(map("".join, parts)) == text, text
    return sum(int(count) * {"s": 1, "m": 60, "h": 3600}[unit] for count, unit in parts)


def selected(selector, labels):
    return selector.items() <= labels.items()


def check(name, documents):
    """What belongs together over several objects."""
    of = lambda kind: [document for document in documents if document["kind"] == kind]
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    namespaces = {d["metadata"].get("namespace") for d in documents if d["kind"] != "Namespace"}
    expect(len(namespaces) == 1 and None not in namespaces, f"{name}: objects in {namespaces}")
    pods = {d["metadata"]["name"]: d["spec"]["template"] for d in of("Deployment")}

    grace = {}
    for pod_name in ("tickmesh-node", "tickmesh-gateway"):
        spec = pods[pod_name]["spec"]
        container = spec["containers"][0]
        config = next(volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume)
        toml = tomllib.loads(named["ConfigMap", config]["data"]["tickmesh.toml"])
        pre_stop = container["lifecycle"]["preStop"]
        if "sleep" in pre_stop:
            takes = pre_stop["sleep"]["seconds"]
        else:
            command = pre_stop["exec"]["command"]
            takes = seconds(command[command.index("--wait") + 1])
        takes += toml["server"]["shutdown_timeout_ms"] / 1000
        grace[pod_name] = spec["terminationGracePeriodSeconds"]
        expect(
            grace[pod_name] >= takes + MARGIN,
            f"{name}: {pod_name}: terminationGracePeriodSeconds {grace[pod_name]} is less than {takes} + {MARGIN}",
        )
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port, key in (("http", toml["node"]["listen"]), ("metrics", toml["server"]["metrics_listen"])):
            expect(key.endswith(f":{ports[port]}"), f"{name}: {pod_name}: port {port} is not where it listens, {key}")
        for source in container["envFrom"]:
            for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if key in source:
                    expect((kind, source[key]["name"]) in named, f"{name}: {pod_name}: no {kind} {source[key]}")
    mounted = [source["secretRef"]["name"] for source in pods["tickmesh-gateway"]["spec"]["containers"][0]["envFrom"]
               if "secretRef" in source]
    expect(all("stores" not in secret for secret in mounted), f"{name}: gateways have the stores' passwords")

    for budget in of("PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        matching = [pod for pod, template in pods.items() if selected(selector, template["metadata"]["labels"])]
        expect(len(matching) == 1, f"{name}: PodDisruptionBudget {budget['metadata']['name']} is for {matching}")
    for service in of("Service"):
        templates = [t for t in pods.values() if selected(service["spec"]["selector"], t["metadata"]["labels"])]
        expect(templates, f"{name}: Service {service['metadata']['name']} has no pods")
        for port in service["spec"]["ports"]:
            for template in templates:
                ports = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
                expect(port["targetPort"] in ports, f"{name}: Service {service['metadata']['name']}: {port}")
    denied = named["NetworkPolicy", "default-deny"]["spec"]
    expect(denied["podSelector"] == {} and len(denied["policyTypes"]) == 2, f"{name}: default-deny denies not all")
    for policy in of("NetworkPolicy"):
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        expect(any(selected(labels, t["metadata"]["labels"]) for t in pods.values()), f"{name}: {policy} has no pods")

    metrics = METRICS.read_text()
    adapter = (ROOT / "deploy/k8s/components/autoscaling/prometheus-adapter.yaml").read_text()
    yaml.safe_load(adapter)
    for scaler in of("HorizontalPodAutoscaler"):
        scaled = scaler["spec"]["scaleTargetRef"]["name"]
        what = f"{name}: HorizontalPodAutoscaler {scaled}"
        expect("replicas" not in named["Deployment", scaled]["spec"], f"{what}: its Deployment has replicas")
        expect(scaler["spec"]["minReplicas"] >= 2, f"{what}: one pod is none while it is replaced")
        policies = scaler["spec"]["behavior"]["scaleDown"]["policies"]
        slow = all(policy["value"] == 1 and policy["periodSeconds"] > grace[scaled] for policy in policies)
        expect(slow, f"{what}: the next pod may go before the last has given its connections away")
        for metric in scaler["spec"]["metrics"]:
            metric = metric["pods"]["metric"]["name"]
            expect(f"`{metric}`" in metrics, f"{what}: docs/metrics.md has no {metric}")
            expect(metric.removeprefix("tickmesh_") in adapter, f"{what}: prometheus-adapter.yaml has no {metric}")
    for rule in of("PrometheusRule"):
        same = rule["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"]
        expect(same, f"{name}: the PrometheusRule is not as deploy/prometheus/rules has it: run tests/k8s/check --write")
    backends = [
        path["backend"]["service"]
        for ingress in of("Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    for backend in backends:
        expect(("Service", backend["name"]) in named, f"{name}: Ingress to {backend}")


def lint(name, text, directory):
    file = directory / (name.replace(" ", "-") + ".yaml")
    file.write_text(text)
    for document in yaml.safe_load_all(text):
        for key, value in document["metadata"].get("annotations", {}).items():
            if key.startswith("checkov.io/skip"):
                expect(re.fullmatch(r"CKV_K8S_\d+=.{10,}", value), f"{name}: {key}: {value}: no reason")
    checkov = [HERE / "venv-lint/bin/checkov", "--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]
    done = subprocess.run([*checkov, "--file", file], capture_output=True, text=True)
    summary = re.search(r"Passed checks: (\d+), Failed checks: (\d+), Skipped checks: (\d+)", done.stdout)
    expect(done.returncode == 0, f"{name}: {done.stdout}{done.stderr}")
    expect(summary is not None or done.returncode != 0, f"{name}: checkov said nothing: {done.stdout}")
    print(f"{name}: checkov: {summary.group(0) if summary else 'failed'}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lint", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.write:
        (ROOT / "deploy/k8s" / PROMETHEUS_RULE).write_text(prometheus_rule())
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "k8s"
        shutil.copytree(ROOT / "deploy/k8s", tree, ignore=shutil.ignore_patterns("cluster.env", "stores.env"))
        # As its reader would.
        for example in (tree / "overlays/production").glob("*.env.example"):
            text = re.sub(r"(SECRET=)$", lambda m: m[1] + secrets.token_hex(32), example.read_text(), flags=re.M)
            example.with_suffix("").write_text(text)
        for name, text in variants(tree):
            documents = list(yaml.safe_load_all(text))
            validate(name, documents)
            check(name, documents)
            print(f"{name}: {len(documents)} objects, Kubernetes {' and '.join(VERSIONS)}")
            if arguments.lint:
                lint(name, text, Path(temporary))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    sys.exit(main())
