"""The Grafana dashboards, one module a dashboard; `python -m views` writes them to grafana/dashboards/."""
