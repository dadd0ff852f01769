"""The mappings of our indices, flat: what views of the records may name."""

from typing import Any

from runtime.record_indices import component_templates


def flat_fields(kind: str) -> dict[str, dict[str, Any]]:
    """The mapping of each field of an index, by its full name."""
    return _flat(component_templates()[f"modelwatch-{kind}"]["template"]["mappings"]["properties"])


def _flat(properties: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, field in properties.items():
        if "properties" in field:
            found |= _flat(field["properties"], f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found
