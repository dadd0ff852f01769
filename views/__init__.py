"""Monitoring views as code: what generates the dashboards in grafana/ and kibana/, and the page of metrics."""
