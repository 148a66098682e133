"""Breaks a rendered overlay in many ways; kubernetes.py must find each.

    python3 kubernetes_test.py EXAMPLE.yaml KEDA.yaml LONG-JOBS.yaml FORWARDED.yaml
"""

import sys

import yaml

from kubernetes import Overlay


def find(objects, kind, name=None):
    return next(o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def pod(objects):
    return find(objects, "Deployment", "fleet-worker")["spec"]["template"]["spec"]


def container(objects):
    return pod(objects)["containers"][0]


def rule(objects, name):
    kinds = [o for o in objects if o["kind"] in ("Rules", "GlobalRules")]
    groups = [group for o in kinds for group in o["spec"]["groups"]]
    return next(r for group in groups for r in group["rules"] if r.get("alert") == name)


def handler(objects):
    return pod(objects)["initContainers"][0]


def variable(container, name):
    return next(v for v in container["env"] if v["name"] == name)


def both_autoscalers(objects):
    hpa = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    spec = {"scaleTargetRef": {"name": "fleet-worker"}, "triggers": [], "minReplicaCount": 0, "maxReplicaCount": 2}
    objects.append({**hpa, "metadata": {"name": "x", "namespace": "fleet"}, "spec": spec})


def drop(objects, kind, name=None):
    objects.remove(find(objects, kind, name))


# (what is broken, how, what must be said)
EXAMPLE = [
    ("an unknown field", lambda o: pod(o).update(termination=1), "Kubernetes 1.32"),
    ("a wrong type", lambda o: pod(o).update(terminationGracePeriodSeconds="1m"), "Kubernetes 1.37"),
    ("an unknown kind", lambda o: o.append({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x", "namespace": "fleet"}, "spec": {}}), "neither"),
    ("an unknown field of a custom resource", lambda o: find(o, "PodMonitoring")["spec"].update(targets=1), "unknown: spec"),
    ("a missing field of a custom resource", lambda o: find(o, "Rules")["spec"].pop("groups"), "lacks spec"),
    ("no such namespace", lambda o: find(o, "Service")["metadata"].update(namespace="flet"), "namespace 'flet' is missing"),
    ("a namespace that enforces less", lambda o: find(o, "Namespace")["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "baseline"}), "restricted"),
    ("no service account", lambda o: drop(o, "ServiceAccount", "fleet-worker"), "service account"),
    ("a token of the Kubernetes API", lambda o: pod(o).pop("automountServiceAccountToken"), "token"),
    ("root", lambda o: pod(o)["securityContext"].pop("runAsNonRoot"), "root"),
    ("a writable root", lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"), "writable"),
    ("capabilities", lambda o: container(o)["securityContext"].pop("capabilities"), "capabilities"),
    ("no memory limit", lambda o: container(o)["resources"].pop("limits"), "memory limit"),
    ("no requests", lambda o: container(o)["resources"].pop("requests"), "requests"),
    ("liveness by readiness", lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/readyz"), "livenessProbe"),
    ("a probe of no port", lambda o: container(o)["readinessProbe"]["httpGet"].update(port="web"), "no port web"),
    ("another port", lambda o: container(o)["ports"][0].update(containerPort=9091), "listens on"),
    ("a setting that is nowhere", lambda o: find(o, "ConfigMap")["data"].pop("FLEET_BUCKET"), "has no FLEET_BUCKET"),
    ("a secret that is not mounted", lambda o: next(e for e in container(o)["env"] if e["name"] == "FLEET_KEYRING").update(value="/etc/fleet/keys.json"), "no secret is mounted"),
    ("no secrets", lambda o: drop(o, "SecretProviderClass", "fleet-worker"), "is missing"),
    ("another project's secrets", lambda o: find(o, "ConfigMap")["data"].update(GOOGLE_CLOUD_PROJECT="other"), "wrong name"),
    ("a selector of nothing", lambda o: find(o, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "x"}), "selects no pods"),
    ("a selector of everything", lambda o: find(o, "Deployment")["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"), "its own pods"),
    ("a budget that blocks", lambda o: find(o, "PodDisruptionBudget")["spec"].pop("unhealthyPodEvictionPolicy"), "AlwaysAllow"),
    ("no default policy", lambda o: drop(o, "NetworkPolicy", "fleet-default-deny"), "denies by default"),
    ("no metadata server", lambda o: find(o, "NetworkPolicy", "fleet-egress")["spec"]["egress"].pop(1), "169.254.169.252/32:988"),
    ("nobody is watched", lambda o: drop(o, "PodMonitoring", "fleet-web"), "watched"),
    ("two autoscalers", both_autoscalers, "exactly one autoscaler"),
    ("no autoscaler", lambda o: drop(o, "HorizontalPodAutoscaler"), "exactly one autoscaler"),
    ("replicas", lambda o: find(o, "Deployment", "fleet-worker")["spec"].update(replicas=3), "undo the autoscaler"),
    ("another subscription", lambda o: find(o, "ConfigMap")["data"].update(FLEET_SUBSCRIPTION="other"), "not by other"),
    ("public metrics", lambda o: find(o, "HTTPRoute")["spec"]["rules"][0]["matches"].append({"path": {"type": "PathPrefix", "value": "/"}}), "public"),
    ("another host", lambda o: find(o, "HTTPRoute")["spec"].update(hostnames=["x.example.com"]), "is not for"),
    ("a placeholder", lambda o: find(o, "ConfigMap")["data"].update(FLEET_TOPIC="PROJECT_ID"), "placeholder"),
    ("Pub/Sub's metrics in a namespace", lambda o: find(o, "GlobalRules").update(kind="Rules"), "this namespace only"),
    ("another environment's alerts", lambda o: find(o, "Rules")["spec"]["groups"][0]["rules"][0]["labels"].update(environment="x"), "is of environment x"),
    ("rules called as another environment's", lambda o: find(o, "GlobalRules")["metadata"].update(name="x"), "is not called fleet"),
    ("another environment's replicas", lambda o: rule(o, "FleetReplicasUnavailable").update(expr='max(kube_deployment_spec_replicas{namespace="x"})'), "another namespace"),
    ("another environment's subscription", lambda o: find(o, "ConfigMap")["data"].update(FLEET_DEAD_SUBSCRIPTION="x"), "FleetDeadLetters looks at"),
    ("another environment's secret", lambda o: find(o, "ConfigMap")["data"].update(FLEET_KEYRING_SECRET="x"), "mounts ["),
    ("another environment's address", lambda o: find(o, "ConfigMap")["data"].update(FLEET_ADDRESS="x"), "has the address of"),
    ("other operators", lambda o: find(o, "ConfigMap")["data"].update(FLEET_OPERATORS="x"), "is for"),
    ("a drain that cuts jobs", lambda o: find(o, "ConfigMap")["data"].update(FLEET_DRAIN="120s"), "cuts jobs"),
    ("a grace period that cuts the drain", lambda o: pod(o).update(terminationGracePeriodSeconds=400), "needs a grace period of 440 s"),
    ("long jobs on nodes that are emptied", lambda o: find(o, "ConfigMap")["data"].update(FLEET_DRAIN="30m"), "safe-to-evict"),
    ("one signal", lambda o: find(o, "HorizontalPodAutoscaler")["spec"]["metrics"].pop(), "no signal"),
    ("a buckets' setting that is nowhere", lambda o: find(o, "ConfigMap")["data"].pop("FLEET_ALLOW_BUCKETS"), "has no FLEET_ALLOW_BUCKETS"),
    ("twice the same", lambda o: o.append(find(o, "Service")), "is there twice"),
]
KEDA = [
    ("a deprecated trigger", lambda o: find(o, "ScaledObject")["spec"]["triggers"][0].update(type="gcp-pubsub"), "deprecated"),
    ("another project", lambda o: find(o, "ScaledObject")["spec"]["triggers"][0]["metadata"].update(serverAddress="https://monitoring.googleapis.com/v1/projects/p/location/global/prometheus"), "not this project's"),
    ("no authentication", lambda o: drop(o, "TriggerAuthentication"), "google-managed-prometheus"),
    ("one signal", lambda o: find(o, "ScaledObject")["spec"]["triggers"].pop(), "no signal"),
    ("never zero", lambda o: find(o, "ScaledObject")["spec"].update(minReplicaCount=1), "zero"),
]
LONG_JOBS = [
    ("a grace period as for short jobs", lambda o: pod(o).update(terminationGracePeriodSeconds=440), "needs a grace period of 1940 s"),
]
FORWARDED = [
    ("a handler that ends", lambda o: handler(o).pop("restartPolicy"), "no sidecar"),
    ("a handler that is not waited for", lambda o: handler(o).pop("startupProbe"), "does not wait"),
    ("the worker's processes", lambda o: pod(o).update(shareProcessNamespace=True), "processes"),
    ("the worker's user", lambda o: handler(o)["securityContext"].update(runAsUser=65532), "the worker's user"),
    ("no user", lambda o: handler(o)["securityContext"].pop("runAsUser"), "the worker's user"),
    ("the keyring", lambda o: handler(o).update(volumeMounts=container(o)["volumeMounts"]), "is mounted in the handler"),
    ("a proxy", lambda o: variable(handler(o), "NO_PROXY").update(value="localhost"), "NO_PROXY"),
    ("the bucket's name", lambda o: handler(o)["env"].append({"name": "FLEET_BUCKET", "value": "b"}), "is told"),
    ("a handler's writable root", lambda o: handler(o)["securityContext"].pop("readOnlyRootFilesystem"), "writable"),
    ("a handler without a limit", lambda o: handler(o)["resources"].pop("limits"), "memory limit"),
    ("no kind", lambda o: variable(container(o), "FLEET_FORWARD").update(value=""), "nothing is forwarded"),
    ("another host", lambda o: variable(container(o), "FLEET_FORWARD").update(value="greet=http://greet:80/"), "nothing is forwarded"),
    ("jobs longer than the drain", lambda o: variable(container(o), "FLEET_FORWARD_TIMEOUT").update(value="10m"), "longer than the drain"),
]
CASES = [EXAMPLE, KEDA, LONG_JOBS, FORWARDED]


def faults_of(path, breaking):
    overlay = Overlay(path)
    breaking(overlay.objects)
    overlay.text = yaml.safe_dump_all(overlay.objects)
    try:
        return overlay.check()
    except (KeyError, IndexError, TypeError) as error:
        return [*overlay.faults, f"unexpected shape: {error!r}"]


def main():
    missed = 0
    for path, cases in zip(sys.argv[1:], CASES, strict=True):
        for name, breaking, told in cases:
            faults = faults_of(path, breaking)
            if not any(told in fault for fault in faults):
                missed += 1
                print(f"{name}: expected {told!r}, found {faults}")
    print(f"{sum(map(len, CASES))} ways to break the overlays, {missed} missed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
