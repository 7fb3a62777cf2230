"""Settings from environment and file, and what is said about wrong ones."""

from datetime import timedelta
from pathlib import Path

import pytest

from processor.config import Settings
from processor.loading import SettingsError, all_settings, load_settings
from processor.secrecy import as_written
from processor.units import duration, spell_duration


def load(environ: dict[str, str] | None = None, *, file: Path | None = None) -> Settings:
    return load_settings(file, environ or {})


def problems(environ: dict[str, str] | None = None, *, file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, file=file)
    return caught.value.problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "processor.yaml"


def test_without_anything_the_defaults_hold() -> None:
    settings = load()

    assert settings.executor.lease == timedelta(seconds=10)
    assert settings.kafka.bootstrap_servers == "localhost:9092"


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(file: Path) -> None:
    file.write_text("kafka: {group: from-file, client_id: mine}\nexecutor: {in_flight_bytes_max: 1GiB}\n")

    settings = load({"PROCESSOR_KAFKA_GROUP": "from-environment", "PROCESSOR_EXECUTOR_DRAIN": "1m 30s"}, file=file)

    assert (settings.kafka.group, settings.kafka.client_id) == ("from-environment", "mine")
    assert settings.executor.in_flight_bytes_max == 2**30
    assert settings.executor.drain == timedelta(seconds=90)


def test_toml_does_as_well(tmp_path: Path) -> None:
    path = tmp_path / "processor.toml"
    path.write_text('migrate = ["alembic upgrade head"]\n[postgres]\nschema = "shop"\n')

    settings = load(file=path)

    assert settings.postgres.schema_name == "shop"
    assert settings.migrate == ("alembic upgrade head",)


def test_variables_are_filled_into_the_file(file: Path) -> None:
    file.write_text(
        "kafka:\n  sasl: {mechanism: PLAIN, password: '${PW}', username: '${USER_NAME:-nobody}'}\n  group: 'a$${b}'\n"
    )

    settings = load({"PW": "s3cret"}, file=file)

    assert settings.kafka.sasl.password is not None
    assert settings.kafka.sasl.password.get_secret_value() == "s3cret"
    assert (settings.kafka.sasl.username, settings.kafka.group) == ("nobody", "a${b}")


def test_a_time_to_keep_is_a_duration_or_for_ever_also_for_single_handlers() -> None:
    settings = load(
        {"PROCESSOR_RETENTION_SUCCESS": "36h", "PROCESSOR_RETENTION_HANDLERS": '{"audit": {"success": "forever"}}'}
    )

    assert settings.retention.success == timedelta(hours=36)
    assert settings.retention.handlers["audit"].success == "forever"
    assert settings.retention.handlers["audit"].error is None


def test_a_time_to_keep_that_is_none_is_refused_with_its_place(file: Path) -> None:
    file.write_text("retention: {success: -1, error: soon, handlers: {audit: {sucess: 1d, error: 0s}}}")

    found = problems(file=file)

    place = "retention.handlers.audit"
    duration = "a duration is written as 30s, 20ms, 5m, 1h30m or a number of seconds"
    assert found == [
        "processor.yaml: retention.success: must be longer than nothing; or forever",
        f"processor.yaml: retention.error: {duration}; or forever",
        "processor.yaml: retention.handlers.audit.error: must be longer than nothing; or forever",
        f"processor.yaml: {place}.sucess: there is no such setting; did you mean {place}.success?",
    ]


def test_a_variable_that_is_not_set_is_named_with_its_place(file: Path) -> None:
    file.write_text("postgres: {dsn: 'host=${NOWHERE}'}")

    assert problems(file=file) == [
        "processor.yaml: postgres.dsn: the variable NOWHERE is not set; ${NOWHERE:-default} gives a default"
    ]


@pytest.mark.parametrize("text", ["${NOPE", "a${}", "${1X}", "${A-b}"])
def test_a_reference_that_is_none_is_refused_and_not_taken_as_it_stands(file: Path, text: str) -> None:
    file.write_text(f"kafka: {{bootstrap_servers: 'hunter2 {text}'}}")

    (problem,) = problems(file=file)

    assert problem.startswith("processor.yaml: kafka.bootstrap_servers: a '${' without NAME and '}'")
    assert "hunter2" not in problem


def test_a_command_that_is_no_list_is_told_so(file: Path) -> None:
    file.write_text("migrate: echo hi\n")

    assert problems(file=file) == ["processor.yaml: migrate: this is a list of commands, also where there is only one"]


@pytest.mark.parametrize(
    "text, section, environ",
    [
        ("kafka: nonsense", "kafka", {"PROCESSOR_KAFKA_GROUP": "x"}),
        ("kafka: [a]", "kafka", {"PROCESSOR_KAFKA_SASL_USERNAME": "me", "PROCESSOR_KAFKA_GROUP": "x"}),
        ("kafka: {sasl: 7}", "kafka.sasl", {"PROCESSOR_KAFKA_SASL_USERNAME": "me"}),
    ],
)
def test_a_section_that_is_none_is_refused_whatever_variables_say_of_it(
    file: Path, text: str, section: str, environ: dict[str, str]
) -> None:
    """It was passed over as soon as one of its settings had a variable."""
    file.write_text(text)

    (problem,) = problems(file=file)

    assert problem.startswith(f"processor.yaml: {section}: this is a section, with settings of its own: ")
    assert problems(environ, file=file) == [problem]


@pytest.mark.parametrize("environ", [{}, {"PROCESSOR_KAFKA_GROUP": "x"}])
def test_a_section_with_nothing_below_it_says_nothing(file: Path, environ: dict[str, str]) -> None:
    """All of its lines are comments."""
    file.write_text("kafka:\n  # group: shop\nexecutor: {}\n")

    assert load(environ, file=file) == load(environ)


def test_what_counts_in_the_working_directory_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither passed over in silence: two of them, or a folder of that name (a volume whose file is missing)."""
    monkeypatch.chdir(tmp_path)
    Path("processor.toml").write_text("[kafka]\ngroup = 'shop'\n")
    assert load({}).kafka.group == "shop"

    Path("processor.yaml").mkdir()
    assert "processor.yaml and processor.toml are both here" in problems({})[0]
    Path("processor.toml").unlink()
    assert problems({}) == ["processor.yaml is here, and is no file"]


def test_every_unknown_key_is_refused_with_the_nearest_known_one(file: Path) -> None:
    file.write_text("kafka: {bootstrp_servers: 'a:1'}\nin_flight_max: 1\nexecuter: {}\n")

    found = problems(file=file)

    assert (
        "processor.yaml: kafka.bootstrp_servers: there is no such setting; did you mean kafka.bootstrap_servers?"
        in found
    )
    assert "processor.yaml: in_flight_max: there is no such setting; did you mean executor.in_flight_max?" in found
    assert "processor.yaml: executer: there is no such setting; did you mean executor?" in found
    assert problems({"PROCESSOR_KAFKA_GRUOP": "x"}) == [
        "PROCESSOR_KAFKA_GRUOP: there is no such setting; did you mean PROCESSOR_KAFKA_GROUP?"
    ]


def test_variables_that_kubernetes_makes_for_a_service_are_no_settings() -> None:
    load(
        {
            "PROCESSOR_SERVICE_HOST": "10.0.0.1",
            "PROCESSOR_SERVICE_PORT_METRICS": "9464",
            "PROCESSOR_PORT": "tcp://10.0.0.1:9464",
            "PROCESSOR_PORT_9464_TCP_ADDR": "10.0.0.1",
            "PROCESSOR_DEMO_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        }
    )


def test_a_wrong_value_is_named_by_the_variable_it_came_from() -> None:
    assert problems({"PROCESSOR_EXECUTOR_LEASE": "soon"}) == [
        "PROCESSOR_EXECUTOR_LEASE: a duration is written as 30s, 20ms, 5m, 1h30m or a number of seconds"
    ]


@pytest.mark.parametrize(
    "environ, rule",
    [
        ({"PROCESSOR_EXECUTOR_LEASE": "8s"}, "three heartbeats"),
        ({"PROCESSOR_PARTITIONS_START": "timestamp"}, "start_timestamp"),
        ({"PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "sasl.mechanism"),
        ({"PROCESSOR_METRICS_LATENCY_BUCKETS_S": "[1, 0.5]"}, "larger"),
    ],
)
def test_values_that_do_not_go_together_are_refused(environ: dict[str, str], rule: str) -> None:
    (problem,) = problems(environ)
    assert rule in problem
    assert next(iter(environ)) in problem


@pytest.mark.parametrize(
    "key",
    [
        *(
            "enable.auto.commit",
            "auto.offset.reset",
            "isolation.level",
            "group.id",
            "sasl.password",
            "ssl.key.password",
        ),
        *("ssl.key.pem", "ssl_key", "sasl.oauthbearer.config", "sasl.oauthbearer.assertion.private.key.passphrase"),
    ],
)
def test_client_properties_that_break_a_guarantee_or_hold_a_secret_are_refused(key: str) -> None:
    (problem,) = problems({"PROCESSOR_KAFKA_EXTRA": f'{{"{key}": "x"}}'})

    assert problem.startswith(f"PROCESSOR_KAFKA_EXTRA: {key} is not for extra")


@pytest.mark.parametrize(
    "key",
    ["enable.idempotence", "acks", "transactional.id", "partitioner", "message.timeout.ms", "bootstrap.servers"],
)
def test_producer_properties_that_break_a_guarantee_or_have_a_setting_are_refused(key: str) -> None:
    """I9."""
    (problem,) = problems({"PROCESSOR_OUTBOX_EXTRA": f'{{"{key}": "x"}}'})

    assert problem.startswith(f"PROCESSOR_OUTBOX_EXTRA: {key} is not for extra")


@pytest.mark.parametrize("name", ["dsn", "direct_dsn"])
def test_what_is_no_connection_string_is_named_and_not_shown(file: Path, name: str) -> None:
    """libpq's own message quotes it, password and all."""
    file.write_text(f"postgres: {{{name}: 'postgres//me:hunter2@db/x'}}")
    expected = (
        "this is no connection string: write postgresql://user:password@host:5432/database, or host=... dbname=..."
        ' (libpq: missing "=" after (not shown) in connection info string)'
    )

    assert problems(file=file) == [f"processor.yaml: postgres.{name}: {expected}"]
    variable = f"PROCESSOR_POSTGRES_{name.upper()}"
    assert problems({variable: "garbage"}) == [f"{variable}: {expected}"]
    assert load({variable: ""}) == load()


def test_secrets_are_shown_nowhere(file: Path) -> None:
    file.write_text(
        "postgres: {dsn: 'postgresql://me:hunter2@db/x', pool_max: hunter2}\nkafka: {sasl: {password: [hunter2]}}"
    )

    assert "hunter2" not in "\n".join(problems(file=file))
    file.write_text("postgres: {dsn: 'postgresql://me:hunter2@db/x'}")
    settings = load({"PROCESSOR_KAFKA_SSL_KEY": "hunter2", "PROCESSOR_KAFKA_SASL_PASSWORD": "hunter2"}, file=file)
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_broken_file_is_named_by_line_without_its_text(file: Path) -> None:
    file.write_text("kafka:\n  group: x\n  password: 'hunter2\n")

    (problem,) = problems(file=file)

    assert problem.startswith(f"{file}, line ")
    assert "hunter2" not in problem


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert problems({"PROCESSOR_CONFIG": str(tmp_path / "none.yaml")})[0].endswith("there is no such file")


def test_every_setting_has_a_variable_of_its_own_and_a_line_of_documentation() -> None:
    settings = list(all_settings())

    assert len({setting.variable for setting in settings}) == len(settings)
    assert [setting.key for setting in settings if not setting.field.description] == []


@pytest.mark.parametrize("text", ["20ms", "30s", "1h30m", "500us", "2d"])
def test_a_duration_is_read_as_it_is_spelled(text: str) -> None:
    value = duration(text)

    assert isinstance(value, timedelta)
    assert spell_duration(value) == text


@pytest.mark.parametrize("text", ["-3s", "-1h30m", "0s", "-5"])
def test_a_duration_of_less_than_nothing_is_told_so_and_not_how_one_is_written(file: Path, text: str) -> None:
    """As a number of the file's, too, which has always been read."""
    expected = "must be longer than nothing"

    assert problems({"PROCESSOR_EXECUTOR_LEASE": text}) == [f"PROCESSOR_EXECUTOR_LEASE: {expected}"]
    file.write_text("executor: {lease: -3}")
    assert problems(file=file) == [f"processor.yaml: executor.lease: {expected}"]


@pytest.mark.parametrize("text", [".inf", "1.0e+300", "999999999999d"])
def test_a_duration_that_nothing_can_hold_is_refused(file: Path, text: str) -> None:
    """It was a traceback."""
    file.write_text(f"executor: {{lease: {text}}}")

    (problem,) = problems(file=file)

    assert problem.startswith("processor.yaml: executor.lease: a duration of more than")


@pytest.mark.parametrize("text", ["'h:port'", "[a:1, 'h:port']", "'a:1, h:port'"])
def test_a_broker_without_a_port_that_is_one_is_refused_by_the_settings_name(file: Path, text: str) -> None:
    """The client would try port 0, for as long as brokers may take to answer."""
    file.write_text(f"kafka: {{bootstrap_servers: {text}}}")
    expected = "'h:port': the port is a number from 1 to 65535"

    assert problems(file=file) == [f"processor.yaml: kafka.bootstrap_servers: {expected}"]
    variable = "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS"
    assert problems({variable: "h:port"}) == [f"{variable}: {expected}"]


@pytest.mark.parametrize("text", ["", "fast", "10 parsecs", "1 2", "-5s", "5s ago"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert problems({"PROCESSOR_EXECUTOR_DRAIN": text})


@pytest.mark.parametrize(
    "variable, value",
    [
        ("PROCESSOR_REGISTRY_URL", "https://ada:hunter2@registry:8081"),
        ("PROCESSOR_REGISTRY_URL", "https://registry:8081,https://hunter2@other:8081"),
        ("PROCESSOR_KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://ada:hunter2@id.example.org/token"),
        ("PROCESSOR_KAFKA_EXTRA", '{"x.y": "-----BEGIN PRIVATE KEY----- hunter2"}'),
        ("PROCESSOR_MIGRATE", '["psql postgresql://ada:hunter2@db/shop"]'),
        ("PROCESSOR_ROLLBACK", '[["psql", "host=db password=hunter2"]]'),
    ],
)
def test_what_is_shown_holds_no_password_and_its_refusal_shows_none(variable: str, value: str) -> None:
    """`processor check` prints it, and in the chart it stands in a ConfigMap."""
    (problem,) = problems({variable: value})

    assert problem.startswith(f"{variable}: ")
    assert "hunter2" not in problem


def test_a_command_remembers_how_it_was_written(file: Path) -> None:
    """What is filled in may be a secret, and commands are shown when they run."""
    file.write_text("migrate: ['psql postgresql://ada:${PW}@db', [psql, '${DSN}', '-c', 'SELECT 1']]\n")

    settings = load_settings(file, {"PW": "hunter2", "DSN": "password=hunter2"})

    assert settings.migrate == ("psql postgresql://ada:hunter2@db", ("psql", "password=hunter2", "-c", "SELECT 1"))
    first, second = settings.migrate
    assert isinstance(first, str)
    assert as_written(first) == "psql postgresql://ada:${PW}@db"
    assert [as_written(word) for word in second] == ["psql", "${DSN}", "-c", "SELECT 1"]
