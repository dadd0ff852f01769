"""Names of the saved objects, which links from elsewhere rely on."""

DASHBOARDS = ("outliers", "drift", "wrong-answers", "prediction")


def dashboard_id(name: str) -> str:
    """Id of a dashboard, part of its address.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in DASHBOARDS:
        raise ValueError(f"no Kibana dashboard is called {name!r}; there are {', '.join(DASHBOARDS)}")
    return f"modelwatch-{name}"
