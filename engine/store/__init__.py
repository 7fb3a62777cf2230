"""Every statement of the engine, one module per table or concern. They build, and never run anything."""
