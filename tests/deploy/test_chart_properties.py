"""What holds of the chart whatever its values are."""

import json

import helm_python
import pytest

from processor.cli import command_parser
from tests.deploy.chart import (
    OPTIONS,
    Object,
    Values,
    everything,
    is_hook,
    named,
    of_kind,
    pods,
    render,
    workload,
)

ALL: dict[str, Values] = {"defaults": {}, **OPTIONS, "everything": everything()}


@pytest.fixture(params=list(ALL))
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """An installation with each option."""
    return render(ALL[request.param])


def containers(pod: Object) -> list[Object]:
    """Ours; what a user adds is the user's."""
    return [each for each in pod["spec"]["containers"] if each.get("command") == ["processor"]]


# -- identity


def test_selectors_are_the_same_whatever_the_values() -> None:
    """They are immutable: an upgrade that changed one would fail, and need the workload deleted."""
    selectors = {json.dumps(workload(render(values))["spec"]["selector"], sort_keys=True) for values in ALL.values()}

    assert selectors == {
        json.dumps(
            {
                "matchLabels": {
                    "app.kubernetes.io/component": "worker",
                    "app.kubernetes.io/instance": "shop",
                    "app.kubernetes.io/name": "onceflow",
                }
            },
            sort_keys=True,
        )
    }


def test_what_an_upgrade_may_not_change_is_the_same_whatever_the_values() -> None:
    stateful = [named("StatefulSet", "shop-onceflow", render(OPTIONS["stateful"], values)) for values in (
        {}, OPTIONS["settings"], OPTIONS["keda"], OPTIONS["static members"], OPTIONS["other port"],
    )]  # fmt: skip
    immutable = ("serviceName", "podManagementPolicy", "volumeClaimTemplates")

    assert len({json.dumps([each["spec"].get(name) for name in immutable]) for each in stateful}) == 1


def test_selectors_find_the_workload_and_nothing_else(objects: list[Object]) -> None:
    selector = workload(objects)["spec"]["selector"]["matchLabels"]

    def matches(pod: Object) -> bool:
        return selector.items() <= pod["metadata"]["labels"].items()

    assert [matches(pod) for pod in pods(objects)].count(True) == 1
    assert matches(workload(objects)["spec"]["template"])
    for kind in ("Service", "PodDisruptionBudget", "PodMonitor", "ServiceMonitor"):
        for each in of_kind(kind, objects):
            found = each["spec"]["selector"]
            assert found.get("matchLabels", found) == selector


def test_labels_of_a_user_cannot_take_the_charts_own_away() -> None:
    stolen = {"app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "other"}

    objects = render({"commonLabels": stolen, "podLabels": stolen})

    for each in [*objects, *pods(objects)]:
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "shop"
    assert workload(objects)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"


def test_every_object_says_whose_it_is(objects: list[Object]) -> None:
    for each in objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        # A pod does not: a new version of the chart alone is no reason to replace it.
        assert ("helm.sh/chart" in each["metadata"]["labels"]) == (each["kind"] != "Pod")


@pytest.mark.parametrize("release", ["a", "onceflow", "a-release-with-a-name-of-fifty-three-characters-xxxxx"])
def test_names_are_within_their_limits(release: str) -> None:
    """63 characters, of which a StatefulSet's pods need 11 for a hash of their own."""
    for each in render(everything(), {"dashboards": {"enabled": True}}, release=release):
        assert len(each["metadata"]["name"]) <= 63
        assert each["kind"] != "StatefulSet" or len(each["metadata"]["name"]) <= 52


# -- secrets


def test_secrets_reach_the_processor_and_nothing_else() -> None:
    objects = render(OPTIONS["secrets"])
    environment = {each["name"]: each for each in containers(workload(objects)["spec"]["template"])[0]["env"]}

    assert environment["PROCESSOR_POSTGRES_DSN"]["valueFrom"] == {
        "secretKeyRef": {"name": "shop-postgres", "key": "dsn"}
    }
    assert environment["PROCESSOR_KAFKA_SASL_PASSWORD"]["valueFrom"] == {
        "secretKeyRef": {"name": "shop-kafka", "key": "password"}
    }
    assert of_kind("Secret", objects) == []
    for each in of_kind("ConfigMap", objects):
        assert "shop-postgres" not in json.dumps(each)


def test_the_migration_may_have_another_role() -> None:
    job = named("Job", "shop-onceflow-migrate", render(OPTIONS["secrets"]))
    environment = {each["name"]: each for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert environment["PROCESSOR_POSTGRES_DSN"]["valueFrom"] == {"secretKeyRef": {"name": "shop-owner", "key": "uri"}}
    assert "PROCESSOR_KAFKA_SASL_PASSWORD" in environment


# -- pods


def test_every_pod_may_run_where_the_rules_are_strict(objects: list[Object]) -> None:
    """The `restricted` Pod Security Standard, and a read-only root file system."""
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
            assert not container["image"].endswith(":latest")
        assert spec["enableServiceLinks"] is False


def test_probes_ask_what_they_are_for() -> None:
    """Liveness about what only a restart helps; readiness, which is not about assignments; startup before both."""
    (container,) = containers(workload(render())["spec"]["template"])

    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 300
    assert container["ports"] == [{"name": "http", "containerPort": 9464}]


def test_without_a_status_server_there_are_no_probes() -> None:
    (container,) = containers(workload(render(OPTIONS["no status server"]))["spec"]["template"])

    assert not {"livenessProbe", "readinessProbe", "startupProbe", "ports"} & container.keys()


def test_pods_are_replaced_when_settings_change() -> None:
    def checksum(*values: Values) -> str:
        return workload(render(*values))["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    assert checksum() == checksum(OPTIONS["dashboards"])
    assert checksum() != checksum(OPTIONS["settings"])


def test_nothing_else_restarts_pods_when_only_monitoring_changes() -> None:
    before, after = render(), render(OPTIONS["alerts"], OPTIONS["dashboards"])

    assert workload(before)["spec"]["template"] == workload(after)["spec"]["template"]


def test_members_keep_their_names() -> None:
    """Static membership: the pod's name in the group, and with its namespace as executor."""
    (container,) = containers(workload(render(OPTIONS["static members"]))["spec"]["template"])
    environment = {each["name"]: each.get("value") for each in container["env"]}

    assert environment["PROCESSOR_KAFKA_GROUP_INSTANCE_ID"] == "$(POD_NAME)"
    assert environment["PROCESSOR_EXECUTOR_NAME"] == "$(POD_NAMESPACE)/$(POD_NAME)"
    names = [each["name"] for each in container["env"]]
    assert names.index("POD_NAME") < names.index("PROCESSOR_KAFKA_GROUP_INSTANCE_ID")


def test_several_processes_are_kept_running_by_one() -> None:
    def arguments(*values: Values) -> list[str]:
        return containers(workload(render(*values))["spec"]["template"])[0]["args"]

    assert arguments() == ["run", "shop.app:app"]
    assert arguments({"processes": 4}) == ["run", "shop.app:app", "--processes", "4"]
    for each in (arguments(), arguments({"processes": 4})):
        command_parser().parse_args(each)


# -- migration


def test_the_migration_runs_before_the_code_and_needs_nothing_of_the_release() -> None:
    objects = render(OPTIONS["network policy"])
    job = named("Job", "shop-onceflow-migrate", objects)
    hooks = {(each["kind"], each["metadata"]["name"]): each for each in objects if is_hook(each)}
    spec = job["spec"]["template"]["spec"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    for needed in (
        ("ServiceAccount", spec["serviceAccountName"]),
        ("ConfigMap", spec["volumes"][0]["configMap"]["name"]),
        ("NetworkPolicy", "shop-onceflow-migrate"),
    ):
        weight = int(hooks[needed]["metadata"]["annotations"]["helm.sh/hook-weight"])
        assert weight < int(job["metadata"]["annotations"]["helm.sh/hook-weight"])


@pytest.mark.parametrize(
    "phase, upgrade, expected",
    [("auto", False, "all"), ("auto", True, "pre"), ("all", True, "all"), ("pre", False, "pre")],
)
def test_old_code_never_meets_a_migration_that_it_cannot_live_with(phase: str, upgrade: bool, expected: str) -> None:
    job = named("Job", "shop-onceflow-migrate", render({"migration": {"phase": phase}}, upgrade=upgrade))

    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--phase", expected]


def test_the_second_phase_comes_after_the_upgrade_and_only_then() -> None:
    objects = render(OPTIONS["migration after upgrades"], upgrade=True)
    job = named("Job", "shop-onceflow-migrate-post", objects)
    account = job["spec"]["template"]["spec"]["serviceAccountName"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--phase", "post"]
    assert not is_hook(named("ServiceAccount", account, objects))


# -- what contradicts itself is refused, with the reason


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"app": ""}, "say which app runs"),
        ({"terminationGracePeriodSeconds": 39}, "too short for settings.executor.drain 30s.*at least 40"),
        ({"settings": {"executor": {"drain": "1m5s"}}}, "too short for settings.executor.drain 1m5s.*at least 75"),
        ({"settings": {"executor": {"drain": 51}}}, "too short for settings.executor.drain 51.*at least 61"),
        ({"processes": 2, "terminationGracePeriodSeconds": 54}, "at least 55"),
        ({"hpa": {"enabled": True}, "keda": {"enabled": True}}, "one of them"),
        (
            {"hpa": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}},
            "hpa: minReplicas 9 is more than maxReplicas 3",
        ),
        ((OPTIONS["keda"], {"keda": {"minReplicas": 9, "maxReplicas": 3}}), "keda: minReplicas 9 is more than"),
        (
            {
                "podMonitor": {"enabled": True},
                "prometheusRule": {
                    "enabled": True,
                    "overrides": {"OnceflowRecordStuck": {"expr": "max(processor_lag_seconds) > 5"}},
                },
            },
            "overrides.OnceflowRecordStuck.expr: metrics are written with braces",
        ),
        ({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "every sum counts twice"),
        ({"staticMembership": True}, "only with kind: StatefulSet"),
        (
            {"settings": {"http": {"enabled": False}}, "podMonitor": {"enabled": True}},
            "nothing for a monitor to scrape",
        ),
        ({"settings": {"web": {"enabled": True, "port": 9464}}}, "a port each"),
        ({"prometheusRule": {"enabled": True}}, "enable one of them"),
        ({"extraEnv": [{"name": "PROCESSOR_EXECUTOR_DRAIN", "value": "9m"}]}, "settings have one place"),
        ({"keda": {"enabled": True}}, "nothing to scale on"),
        ({"keda": {"enabled": True, "topics": [{"name": "a"}]}}, "say settings.kafka.group"),
        (
            {"keda": {"enabled": True, "topics": [{"name": "a"}]}, "settings": {"kafka": {"group": "${GROUP}"}}},
            "say settings.kafka.group, in words",
        ),
        (
            {"keda": {"enabled": True, "topics": [{"name": "a"}]}, "settings": {"kafka": {"group": "g"}}},
            "keda.bootstrapServers",
        ),
        ((OPTIONS["keda"], {"settings": {"kafka": {"mirror_every": "0s"}}}), "mirrors nothing"),
    ],
)
def test_what_contradicts_itself_is_refused(values: Values | tuple[Values, ...], reason: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=reason):
        render(*(values if isinstance(values, tuple) else (values,)))


@pytest.mark.parametrize("release", ["1shop", "my.app"])
def test_a_release_whose_services_no_cluster_would_take_is_refused_before_it_migrates(release: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=f'"{release}-onceflow" is no name for a Service'):
        render(release=release)
    render({"fullnameOverride": "shop"}, release=release)


@pytest.mark.parametrize("labels", [{"a b": "x"}, {"team": "two words"}, {"-a": "x"}, {"a/b/c": "x"}, {"a": "x" * 64}])
def test_labels_that_are_none_are_refused(labels: dict[str, str]) -> None:
    for name in ("commonLabels", "podLabels"):
        with pytest.raises(helm_python.HelmError, match=name):
            render({name: labels})
        render({name: {"example.com/team": "billing", "a": ""}})


@pytest.mark.parametrize(
    "drain, grace_s", [("30s", 40), ("1m30s", 100), ("1h", 3610), ("500ms", 11), (90, 100), ("0.5m", 40)]
)
def test_the_grace_period_is_long_enough_for_the_drain(drain: object, grace_s: int) -> None:
    """Exactly enough passes, a second less does not."""
    values: Values = {"settings": {"executor": {"drain": drain}}}

    render(values, {"terminationGracePeriodSeconds": grace_s})
    if grace_s > 11:
        with pytest.raises(helm_python.HelmRenderError, match="terminationGracePeriodSeconds"):
            render(values, {"terminationGracePeriodSeconds": grace_s - 1})


# -- scale


def test_an_autoscaler_is_not_fought_by_a_fixed_number() -> None:
    assert workload(render())["spec"]["replicas"] == 2
    for name in ("hpa", "keda"):
        assert "replicas" not in workload(render(OPTIONS[name]))["spec"]


def test_a_scaled_object_looks_where_the_processor_consumes() -> None:
    (scaled,) = of_kind("ScaledObject", render(OPTIONS["keda, secured"]))
    (trigger,) = scaled["spec"]["triggers"]

    assert trigger["metadata"] == {
        "bootstrapServers": "broker:9093",
        "consumerGroup": "shop",
        "topic": "orders.placed",
        "lagThreshold": "1000",
        "activationLagThreshold": "0",
        "offsetResetPolicy": "earliest",
        "sasl": "scram_sha512",
        "tls": "enable",
    }
    assert trigger["authenticationRef"] == {"name": "shop-onceflow"}
    assert scaled["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-onceflow"}


def test_numbers_stay_numbers_however_large() -> None:
    (hpa,) = of_kind("HorizontalPodAutoscaler", render(OPTIONS["hpa"]))

    assert hpa["spec"]["metrics"][0]["external"]["target"]["averageValue"] == "5000000"


# -- network


def test_a_network_policy_lets_out_what_is_named_and_in_only_scrapes() -> None:
    objects = render(OPTIONS["network policy"])
    policy = named("NetworkPolicy", "shop-onceflow", objects)["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [sorted({port["port"] for port in rule["ports"]}, key=str) for rule in policy["ingress"]] == [["http"]]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [
        [53, 53],
        [5432, 6432],
        [9092],
        [443],
    ]
    for pod in pods(objects):
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_the_web_server_has_a_port_a_service_and_a_way_in_where_it_is_enabled() -> None:
    """Off by default. Its tokens come from a Secret, and only workers have them as variables."""
    none = render(OPTIONS["network policy"])
    objects = render(OPTIONS["network policy"], OPTIONS["web"])
    service = named("Service", "shop-onceflow-web", objects)["spec"]
    policy = named("NetworkPolicy", "shop-onceflow", objects)["spec"]
    (container,) = containers(workload(objects)["spec"]["template"])

    assert not [each for each in none if each["kind"] == "Service"]
    assert service["ports"] == [{"name": "web", "port": 8081, "targetPort": "web"}]
    assert service["selector"].items() <= workload(objects)["spec"]["template"]["metadata"]["labels"].items()
    assert {"name": "web", "containerPort": 8081} in container["ports"]
    gateway = [{"namespaceSelector": {"matchLabels": {"name": "gateway"}}}]
    assert {"ports": [{"port": "web", "protocol": "TCP"}], "from": gateway} in policy["ingress"]
    tokens = next(each for each in container["env"] if each["name"] == "PROCESSOR_WEB_TOKENS")
    assert tokens["valueFrom"]["secretKeyRef"] == {"name": "shop-web", "key": "tokens"}


# -- observation


def test_alerts_are_about_this_release_only() -> None:
    (rule,) = of_kind("PrometheusRule", render(OPTIONS["alerts"]))
    rules = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    mine = 'namespace="prod",app_kubernetes_io_instance="shop",'

    assert len(rules) > 20
    for each in rules:
        assert each["expr"].count("processor_") == each["expr"].count(mine)
        assert each["labels"]["team"] == "shop"
        assert each["annotations"]["runbook_url"] == f"https://example.org/runbooks/{each['alert']}.md"
    by_name = {each["alert"]: each for each in rules}
    assert "OnceflowNoProcess" not in by_name
    assert (by_name["OnceflowRecordStuck"]["for"], by_name["OnceflowRecordStuck"]["labels"]["severity"]) == (
        "30m",
        "critical",
    )


@pytest.mark.parametrize("option", ["pod monitor", "service monitor"])
def test_monitors_give_the_label_that_alerts_select_by(option: str) -> None:
    objects = render(OPTIONS[option])
    (monitor,) = of_kind("PodMonitor", objects) + of_kind("ServiceMonitor", objects)
    spec = monitor["spec"]

    assert spec.get("podTargetLabels", spec.get("targetLabels")) == ["app.kubernetes.io/instance"]
    (endpoint,) = spec.get("podMetricsEndpoints", spec.get("endpoints"))
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_dashboards_are_found_by_their_label() -> None:
    boards = [each for each in of_kind("ConfigMap", render(OPTIONS["dashboards"])) if each["metadata"].get("namespace")]

    assert sorted(name for each in boards for name in each["data"]) == [
        "onceflow-group.json", "onceflow-overview.json", "onceflow-postgres.json",
    ]  # fmt: skip
    for each in boards:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        (text,) = each["data"].values()
        assert json.loads(text)["panels"]
