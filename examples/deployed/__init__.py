"""fulfil.py as it is deployed: its table, its settings, and a producer of orders. What docker-compose.yml runs."""
