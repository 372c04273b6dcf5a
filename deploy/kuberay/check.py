"""Compare a manifest with the schema of a custom resource definition, as the API server does.

    python deploy/kuberay/check.py CRD.yaml MANIFEST.yaml

KubeRay's definition of a RayJob is ray-operator/config/crd/bases/ray.io_rayjobs.yaml of its
repository; `kubectl get crd rayjobs.ray.io -o yaml` prints the one that a cluster has. Fields that
the schema does not know are errors too: a server would drop them without a word.
"""

import sys
from pathlib import Path
from typing import Any

import jsonschema  # comes with Ray
import yaml


def errors(crd: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest: place and reason, one a line."""
    version = manifest["apiVersion"].partition("/")[2]
    versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"]}
    if version not in versions:
        return [f"apiVersion: {version} is not one of {', '.join(versions)}"]
    schema = closed(versions[version])
    schema["properties"]["metadata"] = {"type": "object"}  # the server knows its fields
    found = jsonschema.Draft7Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


def closed(schema: Any) -> Any:
    """The schema without room for unknown fields."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inside = {name: closed(value) for name, value in schema.items()}
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and not is_open
    ):
        inside["additionalProperties"] = False
    return inside


if __name__ == "__main__":
    crd, manifest = (yaml.safe_load(Path(path).read_text()) for path in sys.argv[1:3])
    wrong = errors(crd, manifest)
    print(*wrong or [f"{sys.argv[2]} fits"], sep="\n")
    sys.exit(bool(wrong))
