"""Data views, saved searches and dashboards of Kibana; `python -m views` writes them to kibana/."""
