"""Settings of a deployment as the engine and the consumers want them. Pure, but for the one function that a setting names."""

from datetime import timedelta
from typing import Literal

from pydantic import SecretStr

from consumers.settings import (
    GroupProtocol,
    GroupSettings,
    OauthToken,
    OnGap,
    OnRecreated,
    RegistrySettings,
    RelaySettings,
    Security,
    StartAt,
    StartAtTime,
    SubjectNames,
    Subscription,
)
from engine.errors import ConfigurationError
from engine.keeping import Keep, RetentionSettings
from engine.queues import QueueSpec
from engine.settings import BrakeSettings, EngineSettings
from processor.app import App
from processor.config import Settings
from processor.config_backpressure import limit_of
from processor.config_kafka import KafkaSettings, SaslSettings
from processor.handlers import Registration
from processor.imports import import_function
from processor.payload_keys import payload_keys

SENT_FROM_OUTSIDE = ("<temp>.temp_send_workflow", "temp_workflow-send-client")
"""Names under which clients of DBOS (Python, TypeScript) leave a row for each message that they sent."""

OTHER_TOKENS = (
    "enable.sasl.oauthbearer.unsecure.jwt",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
)
"""Properties in `kafka.extra` by which the client has tokens otherwise, and judges itself what belongs to them."""


def engine_settings(settings: Settings, app: App | None = None) -> EngineSettings:
    """For the engine; with an app, also how long what its handlers leave behind is kept."""
    postgres, executor, backpressure = settings.postgres, settings.executor, settings.backpressure
    return EngineSettings(
        conninfo=postgres.dsn.get_secret_value(),
        direct_conninfo=_secret(postgres.direct_dsn),
        schema=postgres.schema_name,
        executor_name=executor.name,
        in_flight_max=executor.in_flight_max,
        in_flight_bytes_max=executor.in_flight_bytes_max,
        backlog_max=executor.backlog_max,
        parked_max=settings.partitions.parked_max,
        persist_after=executor.persist_after,
        inputs_inline_max=executor.inputs_inline_max,
        lease=executor.lease,
        heartbeat=executor.heartbeat,
        committers=executor.committers,
        flush_rows_max=executor.flush_rows_max,
        threads=executor.threads,
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        event_bytes_max=settings.outbox.event_bytes_max,
        prepare=postgres.prepared_statements,
        retention=retention_settings(settings, app),
        payload_keys=payload_keys(settings.payloads),
        brakes=BrakeSettings(
            commit_max=limit_of(backpressure.commit_max),
            replica_lag_max=limit_of(backpressure.replica_lag_max),
            vacuum_held_max=limit_of(backpressure.vacuum_held_max),
        ),
    )


def retention_settings(settings: Settings, app: App | None = None) -> RetentionSettings:
    """How long what has ended is kept: of the app's handlers, by their names now and before, and of others by name."""
    retention = settings.retention
    of_app = () if app is None else app.workflows.values()
    keep = {
        name: keep_of(settings, registration.name)
        for registration in of_app
        for name in (registration.name, registration.renamed_from)
        if name is not None
    }
    keep |= {name: keep_of(settings, name) for name in (*SENT_FROM_OUTSIDE, *retention.handlers)}
    return RetentionSettings(
        keep=keep, rows_max=retention.batch_max, vacuum_starved_after=retention.vacuum_starved_after
    )


def keep_of(settings: Settings, handler: str) -> Keep:
    """How long what one handler leaves behind is kept."""
    retention = settings.retention
    own = retention.handlers.get(handler)

    def time(name: Literal["success", "error", "cancelled", "dead_letters"]) -> timedelta | None:
        chosen: timedelta | str | None = None if own is None else getattr(own, name)
        chosen = getattr(retention, name) if chosen is None else chosen
        return chosen if isinstance(chosen, timedelta) else None

    return Keep(
        success=time("success"), error=time("error"), cancelled=time("cancelled"), dead_letters=time("dead_letters")
    )


def listened(app: App, settings: Settings) -> list[QueueSpec]:
    """The queues that a process takes from. Raises `ConfigurationError` for one that the app does not register."""
    chosen = settings.queues.listen
    if chosen is None:
        return [queue.spec for queue in app.queues.values()]
    if unknown := [name for name in chosen if name not in app.queues]:
        known = ", ".join(map(repr, app.queues)) or "none"
        raise ConfigurationError(
            f"queues.listen has {unknown[0]!r}, and app {app.name!r} registers {known}: app.register_queue(Queue(...))"
        )
    return [app.queues[name].spec for name in chosen]


def group_name(registration: Registration, app: App, settings: Settings) -> str:
    """The consumer group of a handler: its own, that of the settings, or the app's name."""
    return registration.group or settings.kafka.group or app.name


def group_settings(settings: Settings, group: str) -> GroupSettings:
    """For one member of a group."""
    kafka = settings.kafka
    return GroupSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        group=group,
        client_id=kafka.client_id,
        security=_security(kafka),
        protocol=GroupProtocol(kafka.group_protocol),
        instance_id=kafka.group_instance_id,
        session_timeout=kafka.session_timeout,
        max_poll_interval=kafka.max_poll_interval,
        prefetch_bytes_max=kafka.prefetch_bytes_max,
        mirror_every=kafka.mirror_every,
        reclaim_every=settings.executor.lease,
        options=_options(kafka),
    )


def relay_settings(settings: Settings) -> RelaySettings:
    """For the relay."""
    kafka, outbox = settings.kafka, settings.outbox
    return RelaySettings(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=kafka.client_id,
        security=_security(kafka),
        options=_options(kafka),
        producer_options=outbox.extra,
        prefix=outbox.prefix,
        position_topic=outbox.position_topic,
        batch_rows_max=outbox.batch_max,
        batch_bytes_max=outbox.batch_bytes_max,
        compression=outbox.compression,
        partitioner=outbox.partitioner,
        transaction_timeout=outbox.transaction_timeout,
        refused_retry=outbox.refused_retry,
    )


def registry_settings(settings: Settings) -> RegistrySettings | None:
    """For the schema registry; `None`: there is none."""
    registry = settings.registry
    if registry.url is None:
        return None
    oauth, ssl = registry.oauth, registry.ssl
    return RegistrySettings(
        url=registry.url,
        username=registry.username,
        password=_secret(registry.password),
        bearer_token=_secret(registry.bearer_token),
        oauth_client_id=oauth.client_id,
        oauth_client_secret=_secret(oauth.client_secret),
        oauth_scope=oauth.scope,
        oauth_token_url=oauth.token_url,
        logical_cluster=registry.logical_cluster,
        identity_pool=registry.identity_pool,
        ca=ssl.ca,
        certificate=ssl.certificate,
        key=ssl.key,
        key_password=_secret(ssl.key_password),
        timeout=registry.timeout,
        retry_max=registry.retry_max,
        known_max=registry.known_max,
        subject_names=SubjectNames(registry.subject_names),
        registers=registry.register_schemas,
        normalizes=registry.normalize,
    )


def subscription(registration: Registration, settings: Settings) -> Subscription:
    """What a handler consumes, and how its partitions begin."""
    topic, partitions = registration.topic, settings.partitions
    assert topic is not None, f"{registration.name}: no topic"
    if partitions.start_timestamp is not None:
        start: StartAt | StartAtTime = StartAtTime(partitions.start_timestamp)
    else:
        start = StartAt(partitions.start)
    return Subscription(
        topic=topic.name,
        handler=registration.name,
        renamed_from=registration.renamed_from,
        start=start,
        on_recreated=OnRecreated(partitions.on_topic_recreated.replace("_", " ")),
        on_gap=OnGap(partitions.on_retention_loss),
    )


def _security(kafka: KafkaSettings) -> Security:
    with_sasl, with_tls = kafka.security_protocol.startswith("SASL"), kafka.security_protocol.endswith("SSL")
    ssl, sasl = kafka.ssl, kafka.sasl
    if not with_tls and (ssl.ca or ssl.certificate or ssl.key):
        raise ConfigurationError(
            f"kafka.ssl is set and kafka.security_protocol is {kafka.security_protocol}: nothing would be encrypted.\n"
            f"  Set it to SSL or SASL_SSL."
        )
    if not with_sasl and any(value for _, value in sasl):
        raise ConfigurationError(
            f"kafka.sasl is set and kafka.security_protocol is {kafka.security_protocol}: it would not be used.\n"
            f"  Set it to SASL_SSL (or SASL_PLAINTEXT, which shows the password on its way), and kafka.sasl.mechanism."
        )
    oauth_token = _oauth_token(sasl) if with_sasl else None
    if with_sasl:
        _check_credentials(kafka)
    return Security(
        tls=with_tls,
        ca=ssl.ca,
        certificate=ssl.certificate,
        key=_secret(ssl.key),
        key_password=_secret(ssl.key_password),
        verify_hostname=ssl.verify_hostname,
        mechanism=sasl.mechanism if with_sasl else None,
        username=sasl.username,
        password=_secret(sasl.password),
        oauth_token=oauth_token,
    )


def _check_credentials(kafka: KafkaSettings) -> None:
    """What the mechanism needs is there. Not a rule of the settings: what never connects to Kafka (`migrate`) needs no password."""
    sasl = kafka.sasl
    if sasl.mechanism == "OAUTHBEARER":
        if sasl.oauthbearer_token or any(kafka.extra.get(name) for name in OTHER_TOKENS):
            return
        if not sasl.oauthbearer_token_endpoint_url:
            raise ConfigurationError(
                "kafka.sasl.mechanism is OAUTHBEARER, and nothing says where tokens come from.\n"
                "  Set kafka.sasl.oauthbearer_token_endpoint_url with a client ID and secret (OIDC), or "
                "kafka.sasl.oauthbearer_token to a function of yours."
            )
        needed = {
            "oauthbearer_client_id": sasl.oauthbearer_client_id,
            "oauthbearer_client_secret": sasl.oauthbearer_client_secret,
        }
    elif sasl.mechanism == "GSSAPI":
        return  # the ticket of whoever runs this will do
    else:
        needed = {"username": sasl.username, "password": sasl.password}
    if missing := [f"kafka.sasl.{name}" for name, value in needed.items() if not value]:
        raise ConfigurationError(
            f"{' and '.join(missing)}: not set, and kafka.sasl.mechanism {sasl.mechanism} needs "
            f"{'them' if len(missing) > 1 else 'it'}."
        )


def _oauth_token(sasl: SaslSettings) -> OauthToken | None:
    """The user's function that fetches tokens. Raises `ConfigurationError` if it is not there."""
    target = sasl.oauthbearer_token
    if target is None:
        return None
    setting = "kafka.sasl.oauthbearer_token"
    if sasl.mechanism != "OAUTHBEARER" or sasl.oauthbearer_token_endpoint_url:
        raise ConfigurationError(
            f"{setting} is set, and nothing would ask it for tokens.\n"
            f"  It wants kafka.sasl.mechanism: OAUTHBEARER, and no kafka.sasl.oauthbearer_token_endpoint_url."
        )
    return import_function(target, setting=setting)


def _options(kafka: KafkaSettings) -> dict[str, str | int | float | bool]:
    """What the client takes as it is: `extra`, and what it knows of Kerberos and OIDC."""
    sasl = kafka.sasl
    options: dict[str, str | int | float | bool | None] = {
        "client.rack": kafka.client_rack,
        "sasl.kerberos.service.name": sasl.kerberos_service_name,
        "sasl.kerberos.principal": sasl.kerberos_principal,
        "sasl.kerberos.keytab": sasl.kerberos_keytab,
        "sasl.oauthbearer.method": "oidc" if sasl.oauthbearer_token_endpoint_url else None,
        "sasl.oauthbearer.config": _secret(sasl.oauthbearer_config),
        "sasl.oauthbearer.client.id": sasl.oauthbearer_client_id,
        "sasl.oauthbearer.client.secret": _secret(sasl.oauthbearer_client_secret),
        "sasl.oauthbearer.token.endpoint.url": sasl.oauthbearer_token_endpoint_url,
        "sasl.oauthbearer.scope": sasl.oauthbearer_scope,
    }
    return kafka.extra | {name: value for name, value in options.items() if value is not None}


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()
