"""What every process shares: settings, logging, errors, metrics, Kafka and Elasticsearch clients, health."""
