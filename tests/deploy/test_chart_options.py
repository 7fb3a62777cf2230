"""Every option of the chart, on and off, is something that Kubernetes takes."""

import helm_python
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import CHART
from tests.deploy.chart import APP, EVERYTHING, OPTIONS, Values, everything, merged, notes, of_kind, render
from tests.deploy.kubernetes import NEWEST, OLDEST, problems

ALL: dict[str, Values] = {"defaults": {}, **OPTIONS, "everything": everything()}
COMPATIBLE = [
    name
    for name in OPTIONS
    if name not in ("hpa", "keda, secured", "service monitor", "no status server", "other name")
]


@pytest.mark.parametrize("name", list(ALL))
def test_what_is_rendered_is_valid_in_every_version(name: str) -> None:
    for each in render(ALL[name]):
        for version in (*NEWEST, OLDEST):
            assert problems(each, version) == [], (each["kind"], version)


@pytest.mark.parametrize("name", ["defaults", "everything"])
def test_an_upgrade_is_as_valid(name: str) -> None:
    for each in render(ALL[name], upgrade=True):
        assert problems(each, NEWEST[0]) == [], each["kind"]


def test_the_schemas_notice_an_unknown_field() -> None:
    """What the test above relies on."""
    (service_account,) = of_kind("ServiceAccount", render({"migration": {"enabled": False}}))

    assert problems(service_account | {"automount": True}, NEWEST[0]) != []


@pytest.mark.parametrize("name", ["defaults", "hpa", "service monitor", "everything"])
def test_helm_lints_it_without_a_warning(name: str) -> None:
    report = helm_python.lint(CHART, merged(APP, ALL[name]), strict=True, kube_version=f"v{NEWEST[0]}.0")

    assert report["errors"] == []
    # Severity 1 is news: that a chart without an icon might have one.
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("name", list(ALL))
def test_notes_say_how_to_look_at_it(name: str) -> None:
    said = notes(ALL[name])

    assert "partitions list" in said
    assert "<no value>" not in said
    assert ("helm --namespace prod test shop" in said) == (name != "no tests")


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(COMPATIBLE), min_size=2))
def test_any_options_go_together(names: set[str]) -> None:
    """No two objects of one kind and name, and all valid."""
    objects = render(*(OPTIONS[name] for name in sorted(names)))

    places = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(places) == len(set(places))
    for each in objects:
        assert problems(each, NEWEST[0]) == [], each["kind"]


def test_everything_leaves_out_only_what_excludes_something() -> None:
    """A new option is in `EVERYTHING`, which `make chart-server` installs, or is the opposite of one that is."""
    opposites = {
        "image by digest", "other name", "stateful", "longer drain", "other port", "no status server", "own spread",
        "no spread", "given account", "open network policy", "no migration", "no disruption budget", "hpa",
        "keda, secured", "service monitor", "no tests",
    }  # fmt: skip

    assert set(OPTIONS) - set(EVERYTHING) == opposites
