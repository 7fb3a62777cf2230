"""Orders in Avro from a schema registry, shipments in JSON Schema to it. Wants `onceflow[avro,jsonschema]`, and `registry.url`."""

import json

from pydantic import BaseModel

from processor import App, Avro, JsonSchema, Topic, load_settings, publish, using_registry

app = App("shop")


class Order(BaseModel):
    order_id: str
    cents: int


class Shipment(BaseModel):
    order_id: str


ORDER = {
    "type": "record",
    "name": "shop.Order",
    "fields": [{"name": "order_id", "type": "string"}, {"name": "cents", "type": "int", "default": 0}],
}

orders = Topic("orders", Order, key=lambda order: order.order_id, format=Avro(schema=json.dumps(ORDER)))
shipments = Topic("shipments", Shipment, format=JsonSchema())


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await publish(shipments, Shipment(order_id=order.order_id))


def by_hand(order: Order) -> tuple[bytes | None, bytes | None]:
    """Outside of an app, for a producer of one's own."""
    with using_registry(load_settings()):
        key, value = orders.encode(order)
    return key, value
