"""What a topic can say: order, headers, tombstones, filters, patterns, payloads that are no JSON."""

from pydantic import BaseModel

from processor import App, Ordering, RawRecord, Record, Topic, UndecodableError, current_workflow


class Profile(BaseModel):
    user_id: str
    name: str


class Reading:
    """A payload of our own: two bytes of sensor, four of value."""

    def __init__(self, sensor: int, value: int) -> None:
        self.sensor = sensor
        self.value = value


class ReadingFormat:
    """Bytes to a reading and back."""

    embeds_json = False

    def decode(self, value: bytes, record: RawRecord) -> Reading:
        if len(value) != 6:
            raise UndecodableError(f"{record}: a reading has 6 bytes, this has {len(value)}")
        return Reading(int.from_bytes(value[:2], "big"), int.from_bytes(value[2:], "big"))

    def encode(self, event: Reading) -> bytes:
        return event.sensor.to_bytes(2, "big") + event.value.to_bytes(4, "big")


app = App("profiles")
seen: list[str] = []


def from_europe(record: RawRecord) -> bool:
    """A filter sees the record with all its headers, before it is decoded."""
    return dict(record.headers).get("region") == b"eu"


profiles = Topic(
    "profiles",
    Profile,
    key=lambda profile: profile.user_id,
    tombstone="deliver",
    where=from_europe,
    headers=("trace",),
)


@app.workflow(on=profiles)
async def update(profile: Record[Profile | None]) -> None:
    """The record itself: event, key, headers on the allow-list, timestamp, coordinates."""
    trace = profile.header("trace")
    current_workflow().logger.info("profile changed")
    seen.append(f"{profile} {profile.event.name if profile.event else 'deleted'} {trace!r}")


audits = Topic(r"^audit\..*", str, ordering=Ordering.PARTITION)


@app.workflow(on=audits, group="profiles-audit")
async def audit(line: str) -> None:
    """Every topic whose name matches, strictly in order, in a consumer group of its own."""
    seen.append(line)


readings = Topic("readings", Reading, order_by=lambda reading: reading.sensor, format=ReadingFormat())


@app.workflow(on=readings)
async def store(reading: Reading) -> None:
    """Ordered by what is in the event, not by the record's key."""
    seen.append(f"{reading.sensor}={reading.value}")
