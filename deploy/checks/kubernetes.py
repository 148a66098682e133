"""Checks rendered overlays: schemas, custom resources, and what objects say of each other.

    python3 kubernetes.py OVERLAY.yaml...

Kubernetes' own kinds are validated strictly against its published schemas
(PyPI kubernetes-validate), on the oldest and the newest version that we mean to
run on. Custom resources have no schemas there: `CUSTOM` lists the fields that
these may and must have. Then every reference must lead somewhere.
"""

import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.32", "1.37"]

# (apiVersion, kind) -> (fields of the spec that must be there, that may be there)
CUSTOM = {
    ("monitoring.googleapis.com/v1", "PodMonitoring"): ({"selector", "endpoints"}, set()),
    ("monitoring.googleapis.com/v1", "Rules"): ({"groups"}, set()),
    ("monitoring.googleapis.com/v1", "GlobalRules"): ({"groups"}, set()),
    ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"): ({"provider", "parameters"}, set()),
    ("gateway.networking.k8s.io/v1", "Gateway"): ({"gatewayClassName", "listeners"}, {"addresses"}),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): ({"parentRefs", "rules"}, {"hostnames"}),
    ("networking.gke.io/v1", "HealthCheckPolicy"): ({"default", "targetRef"}, set()),
    ("keda.sh/v1alpha1", "ScaledObject"): (
        {"scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount"},
        {"pollingInterval", "cooldownPeriod", "fallback", "advanced"},
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): ({"podIdentity"}, set()),
}
CLUSTER_SCOPED = {"Namespace", "GlobalRules"}
KEDA_PROMETHEUS = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues"}
PROBES = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
SECRETS_DRIVER = "secrets-store-gke.csi.k8s.io"
# As `worker::replica` winds up, after the drain: messages that are given back, and four times the lease ttl.
WIND_UP = 10 + 4 * 30
# A job may take 5 minutes, and 10 s more are needed to write its end.
LONGEST_JOB = 310
# So long cluster autoscalers wait for a pod that they move.
MOVED_WITHIN = 600
METADATA = {"169.254.169.252/32": 988, "169.254.169.254/32": 80}


def seconds_of(text):
    """Of `110s` or `2m`; 0 of anything else."""
    number, unit = text[:-1], text[-1:]
    return int(number) * {"s": 1, "m": 60}.get(unit, 0) if number.isdigit() else 0


class Overlay:
    def __init__(self, path):
        self.path = path
        self.faults = []
        with open(path, encoding="utf-8") as file:
            self.objects = [o for o in yaml.safe_load_all(file) if o]
        self.text = open(path, encoding="utf-8").read()

    def fault(self, obj, what):
        name = f"{obj['kind']}/{obj['metadata']['name']}" if obj else "overlay"
        self.faults.append(f"{self.path}: {name}: {what}")

    def of(self, *kinds):
        return [o for o in self.objects if o["kind"] in kinds]

    def named(self, kind, name):
        return next((o for o in self.of(kind) if o["metadata"]["name"] == name), None)

    def expect(self, holds, obj, what):
        if not holds:
            self.fault(obj, what)
        return holds

    def check(self):
        seen = set()
        for obj in self.objects:
            key = (obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
            self.expect(key not in seen, obj, "is there twice")
            seen.add(key)
            self.schema(obj)
            self.namespace(obj)
        self.expect("PROJECT_ID" not in self.text, None, "a placeholder is left: PROJECT_ID")
        for deployment in self.of("Deployment"):
            self.deployment(deployment)
        for service in self.of("Service"):
            pods = self.selected(service, service["spec"]["selector"])
            for port in service["spec"]["ports"]:
                for pod in pods:
                    self.port(service, pod, port["targetPort"])
        for budget in self.of("PodDisruptionBudget"):
            self.selected(budget, budget["spec"]["selector"]["matchLabels"])
            spec = budget["spec"]
            self.expect(spec.get("maxUnavailable") == 1, budget, "maxUnavailable must be 1")
            kept = spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
            self.expect(kept, budget, "broken pods must not hold up a drain: AlwaysAllow")
        self.environment()
        self.drain()
        self.network()
        self.monitoring()
        self.autoscaling()
        self.gateway()
        return self.faults

    # Schemas

    def schema(self, obj):
        api, kind = obj["apiVersion"], obj["kind"]
        if (api, kind) in CUSTOM:
            must, may = CUSTOM[api, kind]
            has = set(obj["spec"])
            self.expect(must <= has, obj, f"lacks spec.{sorted(must - has)}")
            self.expect(has <= must | may, obj, f"unknown: spec.{sorted(has - must - may)}")
            self.expect(set(obj) == {"apiVersion", "kind", "metadata", "spec"}, obj, "extra fields")
            return
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(obj, version, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                self.fault(obj, f"{api} {kind} is neither Kubernetes {version}'s nor known here")
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                self.fault(obj, f"Kubernetes {version}: {path}: {error.message}")

    def namespace(self, obj):
        namespace = obj["metadata"].get("namespace")
        if obj["kind"] in CLUSTER_SCOPED:
            self.expect(namespace is None, obj, "belongs to no namespace, but names one")
            if obj["kind"] == "Namespace":
                level = obj["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
                self.expect(level == "restricted", obj, "must enforce the restricted standard")
        else:
            self.expect(self.named("Namespace", namespace), obj, f"namespace {namespace!r} is missing")

    # Pods

    def selected(self, obj, labels, wanted=True):
        found = [
            d for d in self.of("Deployment")
            if labels.items() <= d["spec"]["template"]["metadata"]["labels"].items()
        ]
        if wanted:
            self.expect(found, obj, f"selects no pods: {labels}")
        return found

    def port(self, obj, deployment, port):
        ports = deployment["spec"]["template"]["spec"]["containers"][0].get("ports", [])
        number = next((p["containerPort"] for p in ports if port in (p["name"], p["containerPort"])), None)
        self.expect(number, obj, f"{deployment['metadata']['name']} has no port {port}")
        return number

    def deployment(self, obj):
        labels = obj["spec"]["selector"]["matchLabels"]
        ours = self.selected(obj, labels)
        self.expect(ours == [obj], obj, "its selector must select its own pods and no others")
        pod = obj["spec"]["template"]["spec"]
        account = self.named("ServiceAccount", pod.get("serviceAccountName"))
        self.expect(account, obj, f"service account {pod.get('serviceAccountName')} is missing")
        self.expect(pod.get("automountServiceAccountToken") is False, obj, "mounts a token it has no use for")
        context = pod.get("securityContext", {})
        self.expect(context.get("runAsNonRoot") is True, obj, "may run as root")
        self.expect(context.get("seccompProfile") == {"type": "RuntimeDefault"}, obj, "no seccomp profile")
        for constraint in pod["topologySpreadConstraints"]:
            spread = self.selected(obj, constraint["labelSelector"]["matchLabels"])
            self.expect(spread == [obj], obj, "spreads over pods that are not its own")
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for volume in volumes.values():
            self.secret_files(obj, volume)
        for container in pod["containers"]:
            self.container(obj, container, volumes)
        for handler in pod.get("initContainers", []):
            self.handler(obj, pod, handler)

    def confined(self, obj, container):
        context = container.get("securityContext", {})
        self.expect(context.get("allowPrivilegeEscalation") is False, obj, "may gain privileges")
        self.expect(context.get("readOnlyRootFilesystem") is True, obj, "its root is writable")
        self.expect(context.get("capabilities") == {"drop": ["ALL"]}, obj, "has capabilities")
        resources = container.get("resources", {})
        self.expect({"cpu", "memory"} <= set(resources.get("requests", {})), obj, "no requests")
        self.expect("memory" in resources.get("limits", {}), obj, "no memory limit")

    def handler(self, obj, pod, handler):
        """A native sidecar that does jobs, and must not reach what the worker has."""
        self.confined(obj, handler)
        self.expect(handler.get("restartPolicy") == "Always", obj, "its handler is no sidecar")
        self.expect("startupProbe" in handler, obj, "the worker does not wait for its handler")
        shared = pod.get("shareProcessNamespace", False)
        self.expect(shared is False, obj, "the handler sees the worker's processes")
        user = handler["securityContext"].get("runAsUser", pod["securityContext"]["runAsUser"])
        others = {
            c["securityContext"].get("runAsUser", pod["securityContext"]["runAsUser"])
            for c in pod["containers"]
        }
        self.expect(user not in others | {0}, obj, "the handler has the worker's user")
        self.expect(not handler.get("volumeMounts"), obj, "something is mounted in the handler")
        variables = {v["name"]: v.get("value") for v in handler.get("env", [])}
        around = {"127.0.0.1", "localhost"} <= set(variables.get("NO_PROXY", "").split(","))
        self.expect(around, obj, "a proxy stands before the token endpoint: NO_PROXY")
        known = [name for name in variables if name.startswith("FLEET_")]
        self.expect(not known, obj, f"the handler is told {known}")
        worker = {v["name"]: v.get("value", "") for v in pod["containers"][0]["env"]}
        self.expect("http://127.0.0.1:" in worker.get("FLEET_FORWARD", ""), obj, "nothing is forwarded")
        limit = seconds_of(worker.get("FLEET_FORWARD_TIMEOUT", ""))
        self.expect(0 < limit <= seconds_of(self.settings()["FLEET_DRAIN"]), obj, "jobs may take longer than the drain")

    def container(self, obj, container, volumes):
        self.confined(obj, container)
        for probe, path in PROBES.items():
            get = container.get(probe, {}).get("httpGet", {})
            if self.expect(get.get("path") == path, obj, f"{probe} must ask {path}"):
                self.port(obj, obj, get["port"])
        listen = next((e["value"] for e in container["env"] if e["name"] == "FLEET_LISTEN"), "")
        numbers = [str(p["containerPort"]) for p in container["ports"]]
        self.expect([listen.rpartition(":")[2]] == numbers, obj, f"listens on {listen}, exposes {numbers}")
        mounts = {m["name"]: m for m in container.get("volumeMounts", [])}
        self.expect(set(mounts) == set(volumes), obj, "volumes and mounts differ")
        files = {path for volume in volumes.values() for path in self.secret_files(obj, volume)}
        for variable in container["env"]:
            value = variable.get("value", "")
            if value.startswith("/"):
                root = next((m["mountPath"] for m in mounts.values() if value.startswith(m["mountPath"])), "")
                self.expect(value[len(root) + 1:] in files, obj, f"{variable['name']}: no secret is mounted at {value}")
            reference = variable.get("valueFrom", {}).get("configMapKeyRef")
            if reference:
                config = self.named("ConfigMap", reference["name"]) or {"data": {}}
                known = reference["key"] in config["data"]
                self.expect(known, obj, f"ConfigMap {reference['name']} has no {reference['key']}")

    def secret_files(self, obj, volume):
        csi = volume.get("csi", {})
        self.expect(csi.get("driver") == SECRETS_DRIVER and csi.get("readOnly"), obj, "not the secrets' driver")
        name = csi.get("volumeAttributes", {}).get("secretProviderClass")
        provider = self.named("SecretProviderClass", name)
        if not self.expect(provider, obj, f"SecretProviderClass {name} is missing"):
            return []
        self.expect(provider["spec"]["provider"] == "gke", provider, "not GKE's provider")
        project = self.settings()["GOOGLE_CLOUD_PROJECT"]
        secrets = yaml.safe_load(provider["spec"]["parameters"]["secrets"])
        for secret in secrets:
            parts = secret["resourceName"].split("/")
            form = parts[0::2] == ["projects", "secrets", "versions"] and parts[1] == project
            self.expect(form, provider, f"wrong name: {secret['resourceName']}")
        return [secret["path"] for secret in secrets]

    def settings(self):
        return next(o["data"] for o in self.of("ConfigMap") if "GOOGLE_CLOUD_PROJECT" in o["data"])

    # One environment, which may stand beside another

    def environment(self):
        settings = self.settings()
        here = self.of("Namespace")[0]["metadata"]["name"]
        for rules in self.of("Rules", "GlobalRules"):
            if rules["kind"] == "GlobalRules":
                self.expect(rules["metadata"]["name"] == here, rules, f"is not called {here}")
            for group in rules["spec"]["groups"]:
                for rule in group["rules"]:
                    if "alert" not in rule:
                        continue
                    name = rule["labels"].get("environment")
                    self.expect(name == here, rules, f"{rule['alert']} is of environment {name}, not of {here}")
                    for part in rule["expr"].split('namespace="')[1:]:
                        self.expect(part.split('"')[0] == here, rules, f"{rule['alert']} looks at another namespace")
                    asked = {part.split('"')[0] for part in rule["expr"].split('subscription_id="')[1:]}
                    ours = {settings["FLEET_SUBSCRIPTION"], settings["FLEET_DEAD_SUBSCRIPTION"]}
                    self.expect(asked <= ours, rules, f"{rule['alert']} looks at {asked - ours}")
        wanted = [settings[f"FLEET_{name}_SECRET"] for name in ["CLIENT", "KEYRING", "SESSION"]]
        for provider in self.of("SecretProviderClass"):
            secrets = yaml.safe_load(provider["spec"]["parameters"]["secrets"])
            names = [secret["resourceName"].split("/")[3] for secret in secrets]
            self.expect(names == wanted[:len(names)], provider, f"mounts {names}, not {wanted}")
        for gateway in self.of("Gateway"):
            named = {gateway["metadata"]["annotations"]["networking.gke.io/certmap"], gateway["spec"]["addresses"][0]["value"]}
            self.expect(named == {settings["FLEET_ADDRESS"]}, gateway, f"has the address of {named}")
        for binding in self.of("RoleBinding"):
            role = self.named("Role", binding["roleRef"]["name"])
            self.expect(role, binding, "binds a role that is missing")
            subjects = {subject["name"] for subject in binding["subjects"]}
            self.expect(subjects == {settings["FLEET_OPERATORS"]}, binding, f"is for {subjects}")

    def drain(self):
        pod = self.named("Deployment", "fleet-worker")["spec"]["template"]
        text = self.settings()["FLEET_DRAIN"]
        seconds = seconds_of(text)
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        self.expect(seconds >= LONGEST_JOB, None, f"FLEET_DRAIN={text} cuts jobs that may take {LONGEST_JOB} s with their ends")
        self.expect(grace >= seconds + WIND_UP, None, f"FLEET_DRAIN={text} needs a grace period of {seconds + WIND_UP} s, not {grace}")
        kept = pod["metadata"].get("annotations", {}).get("cluster-autoscaler.kubernetes.io/safe-to-evict") == "false"
        self.expect(kept or seconds + WIND_UP <= MOVED_WITHIN, None, f"nodes are emptied within {MOVED_WITHIN} s: safe-to-evict")

    # What is around them

    def network(self):
        policies = self.of("NetworkPolicy")
        closed = [
            p for p in policies
            if p["spec"]["podSelector"] == {} and set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not p["spec"].get("ingress") and not p["spec"].get("egress")
        ]
        self.expect(closed, None, "no policy denies by default")
        reached = set()
        for policy in policies:
            labels = policy["spec"]["podSelector"].get("matchLabels")
            pods = self.selected(policy, labels) if labels else self.of("Deployment")
            for rule in policy["spec"].get("ingress", []):
                exposed = {
                    p["containerPort"] for d in pods
                    for p in d["spec"]["template"]["spec"]["containers"][0]["ports"]
                }
                for port in rule["ports"]:
                    self.expect(port["port"] in exposed, policy, f"nobody listens on {port['port']}")
            for rule in policy["spec"].get("egress", []):
                for peer in rule["to"]:
                    for port in rule["ports"]:
                        reached.add((peer.get("ipBlock", {}).get("cidr"), port["port"]))
        for cidr, port in METADATA.items():
            self.expect((cidr, port) in reached, None, f"the metadata server {cidr}:{port} is not reached")
        self.expect(("0.0.0.0/0", 443) in reached, None, "Google's APIs are not reached")
        self.expect(any(port == 53 for _, port in reached), None, "DNS is not reached")

    def monitoring(self):
        watched = []
        for monitoring in self.of("PodMonitoring"):
            for pod in self.selected(monitoring, monitoring["spec"]["selector"]["matchLabels"]):
                watched.append(pod["metadata"]["name"])
                for endpoint in monitoring["spec"]["endpoints"]:
                    self.port(monitoring, pod, endpoint["port"])
                    self.expect(endpoint.get("path") == "/metrics", monitoring, "metrics are at /metrics")
                    known = set(endpoint) == {"port", "path", "interval"}
                    self.expect(known, monitoring, f"an endpoint has {sorted(endpoint)}")
        names = [d["metadata"]["name"] for d in self.of("Deployment")]
        self.expect(sorted(watched) == sorted(names), None, f"watched {watched} of {names}")
        for rules in self.of("Rules", "GlobalRules"):
            for group in rules["spec"].get("groups", []):
                for rule in group["rules"]:
                    name = rule.get("alert", rule.get("record"))
                    shaped = {"alert", "expr", "labels", "annotations"} <= set(rule) or {"record", "expr"} == set(rule)
                    self.expect(shaped, rules, f"{name} lacks something")
                    public = any(other in rule["expr"] for other in ["pubsub_googleapis_com", "kube_deployment_"])
                    fits = public == (rules["kind"] == "GlobalRules")
                    self.expect(fits, rules, f"{name}: Rules see metrics of this namespace only")

    def autoscaling(self):
        scalers = self.of("HorizontalPodAutoscaler", "ScaledObject")
        targets = [s["spec"]["scaleTargetRef"]["name"] for s in scalers]
        self.expect(targets == ["fleet-worker"], None, f"exactly one autoscaler for the workers, not {targets}")
        subscription = self.settings()["FLEET_SUBSCRIPTION"]
        for scaler in scalers:
            target = self.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
            if self.expect(target, scaler, "scales what is not there"):
                self.expect("replicas" not in target["spec"], target, "replicas would undo the autoscaler")
        for scaler in self.of("HorizontalPodAutoscaler"):
            external = scaler["spec"]["metrics"][0]["external"]
            named = external["metric"]["selector"]["matchLabels"].get("resource.labels.subscription_id")
            self.expect(named == subscription, scaler, f"scales by {named}, not by {subscription}")
            second = [m["resource"]["name"] for m in scaler["spec"]["metrics"][1:]]
            self.expect(second == ["cpu"], scaler, "has no signal while Cloud Monitoring has none")
            backlog = external["metric"]["name"] == "pubsub.googleapis.com|subscription|num_undelivered_messages"
            self.expect(backlog and external["target"]["type"] == "AverageValue", scaler, "not by the backlog")
        for scaler in self.of("ScaledObject"):
            second = [t["type"] for t in scaler["spec"]["triggers"][1:]]
            self.expect(second == ["cpu"], scaler, "has no signal while Cloud Monitoring has none")
            for trigger in scaler["spec"]["triggers"][:1]:
                self.expect(trigger["type"] == "prometheus", scaler, "gcp-pubsub is deprecated: prometheus")
                self.expect(set(trigger["metadata"]) <= KEDA_PROMETHEUS, scaler, "unknown trigger metadata")
                project = self.settings()["GOOGLE_CLOUD_PROJECT"]
                address = f"https://monitoring.googleapis.com/v1/projects/{project}/location/global/prometheus"
                self.expect(trigger["metadata"]["serverAddress"] == address, scaler, "not this project's metrics")
                asked = f'subscription_id="{subscription}"' in trigger["metadata"]["query"]
                self.expect(asked, scaler, f"does not ask about {subscription}")
                name = trigger["authenticationRef"]["name"]
                self.expect(self.named("TriggerAuthentication", name), scaler, f"no {name}")
            self.expect(scaler["spec"]["minReplicaCount"] == 0, scaler, "does not scale to zero")

    def gateway(self):
        for route in self.of("HTTPRoute"):
            host = self.settings()["FLEET_PUBLIC_URL"].removeprefix("https://")
            self.expect(route["spec"]["hostnames"] == [host], route, f"is not for {host}")
            for parent in route["spec"]["parentRefs"]:
                self.expect(self.named("Gateway", parent["name"]), route, f"no Gateway {parent['name']}")
            for rule in route["spec"]["rules"]:
                for match in rule["matches"]:
                    open_to_all = match["path"] == {"type": "PathPrefix", "value": "/"}
                    self.expect(not open_to_all, route, "/metrics would be public")
                for backend in rule["backendRefs"]:
                    service = self.named("Service", backend["name"])
                    if self.expect(service, route, f"no Service {backend['name']}"):
                        ports = [p["port"] for p in service["spec"]["ports"]]
                        self.expect(backend["port"] in ports, route, f"no port {backend['port']}")
        for policy in self.of("HealthCheckPolicy"):
            target = policy["spec"]["targetRef"]
            self.expect(self.named(target["kind"], target["name"]), policy, "checks what is not there")
            check = policy["spec"]["default"]["config"]["httpHealthCheck"]
            self.expect(check["requestPath"] in PROBES.values(), policy, "no such health path")


def main():
    overlays = [Overlay(path) for path in sys.argv[1:]]
    faults = [fault for overlay in overlays for fault in overlay.check()]
    for fault in faults:
        print(fault)
    for overlay in overlays:
        print(f"{overlay.path}: {len(overlay.objects)} objects")
    if not overlays:
        sys.exit("usage: kubernetes.py OVERLAY.yaml...")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
