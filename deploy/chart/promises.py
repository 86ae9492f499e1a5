"""What the chart promises and no Kubernetes schema knows: who may do what, and who waits for whom how long."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
PODS = ("Deployment", "Job")
FOREIGN = ("HOME", "REDIS_URL")
"""Settings that are not OMGSR_…."""


def broken_promises(manifests: list[Manifest], root: Path) -> Iterator[str]:
    """In words, each with the manifest's name."""
    for each in manifests:
        if each["kind"] in PODS:
            yield from (f"{each['kind']} {each['metadata']['name']}: {fault}" for fault in _of_pod(each))
    yield from _of_settings(manifests, root)
    yield from _of_ends(manifests)
    yield from _of_network(manifests)


def _of_pod(manifest: Manifest) -> Iterator[str]:
    pod = manifest["spec"]["template"]["spec"]
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod gets a token of the cluster"
    if not pod["securityContext"].get("runAsNonRoot") or not pod["securityContext"].get("seccompProfile"):
        yield "the pod may be root, or is not confined by seccomp"
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        security = container["securityContext"]
        if security["capabilities"]["drop"] != ["ALL"] or security["allowPrivilegeEscalation"]:
            yield f"{container['name']} keeps privileges"
        if not security["readOnlyRootFilesystem"]:
            yield f"{container['name']} may write to its root"
        if missing := {mount["name"] for mount in container.get("volumeMounts", [])} - volumes:
            yield f"{container['name']} mounts {missing}, which are no volumes"
        if "memory" not in container["resources"].get("limits", {}):
            yield f"{container['name']} has no limit of memory"
    if unused := volumes - {
        mount["name"] for part in [*pod.get("initContainers", []), *pod["containers"]] for mount in part["volumeMounts"]
    }:
        yield f"the volumes {unused} are not mounted"


def _of_settings(manifests: list[Manifest], root: Path) -> Iterator[str]:
    """Every setting exists in the service, and the probes ask where it listens."""
    source = (root / "service" / "settings.py").read_text("utf-8")
    known = {f"OMGSR_{name.upper()}" for name in re.findall(r"^    (\w+): [^=]+ = ", source, re.MULTILINE)}
    for each in manifests:
        if each["kind"] == "ConfigMap":
            ours = {name for name in each["data"] if not name.startswith(("OTEL_", "AWS_", "FSSPEC_", "HF_"))}
            for name in sorted(ours - known - set(FOREIGN)):
                yield f"ConfigMap {each['metadata']['name']}: the service has no setting {name}"


def _of_ends(manifests: list[Manifest]) -> Iterator[str]:
    """Ten seconds more than the service takes at most; the API outlives the longest job of a worker."""
    drain = {}
    for name, data in _settings_of(manifests):
        drain[name] = int(data["OMGSR_DRAIN_S"]) + int(data.get("OMGSR_NOTICE_S", 0))
    for deployment in _of_kind(manifests, "Deployment"):
        name = deployment["metadata"]["name"]
        grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        if grace < drain[name] + 10:
            yield f"Deployment {name}: killed after {grace} s, though it may drain for {drain[name]} s"
        if any(probe not in deployment["spec"]["template"]["spec"]["containers"][0] for probe in _PROBES):
            yield f"Deployment {name}: not all of {', '.join(_PROBES)}"
    api, worker = (next(value for name, value in drain.items() if name.endswith(end)) for end in ("-api", "-worker"))
    if api <= worker:
        yield f"a stopping API waits {api} s, a job may take {worker} s"


def _of_network(manifests: list[Manifest]) -> Iterator[str]:
    """Every pod has its policy; nobody but the scraper reaches a worker; named ports are those of the pods."""
    policies = {each["metadata"]["name"]: each["spec"] for each in _of_kind(manifests, "NetworkPolicy")}
    if not policies:
        return
    for owner in (each for each in manifests if each["kind"] in PODS):
        labels = owner["spec"]["template"]["metadata"]["labels"]
        own = [spec for spec in policies.values() if spec["podSelector"]["matchLabels"].items() <= labels.items()]
        if len(own) != 1:
            yield f"{owner['kind']} {owner['metadata']['name']}: {len(own)} network policies"
            continue
        container = owner["spec"]["template"]["spec"]["containers"][0]
        ports = {port["name"] for port in container.get("ports", [])}
        opened = {port["port"] for rule in own[0].get("ingress", []) for port in rule["ports"]}
        if opened != ports:
            yield f"{owner['kind']} {owner['metadata']['name']}: listens on {ports}, reached on {opened}"
        if container["name"] == "worker" and not all(rule.get("from") for rule in own[0]["ingress"]):
            yield "anybody reaches the workers"


_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def _of_kind(manifests: list[Manifest], kind: str) -> Iterator[Manifest]:
    return (each for each in manifests if each["kind"] == kind)


def _settings_of(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, str]]]:
    return ((each["metadata"]["name"], each["data"]) for each in _of_kind(manifests, "ConfigMap"))
