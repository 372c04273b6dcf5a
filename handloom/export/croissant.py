"""Metadata of an export in the Croissant format (mlcommons.org/croissant/1.0), croissant.json.

The files of a set are described by a glob; with columns where they are Parquet.
"""

import json
from typing import Any

import handloom
from handloom.export.card import Facts
from handloom.export.format import Format, Job

NAME = "croissant.json"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification prescribes."""
FILES = "files"
MIME = {"parquet": "application/x-parquet", "tar": "application/x-tar"}


def text(told: Facts, form: Format, job: Job) -> str:
    """The content of croissant.json."""
    licences = ", ".join(told["licences"])
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": told["name"],
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": _description(told),
        "license": licences,
        "creator": {"@type": "sc:Organization", "name": f"handloom {handloom.__version__}"},
        "version": "1.0.0",
        "distribution": [_files(form)],
    }
    if fields := form.record_fields(job):
        found["recordSet"] = [_records(fields)]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _description(told: Facts) -> str:
    splits = ", ".join(f"{n['clips']:,} {split}" for split, n in told["splits"].items())
    kind = f" of {told['kind']}" if told["kind"] else ""
    return (
        f"{told['unit'].capitalize()}s{kind} ({splits}), curated and exported by handloom from "
        f"{', '.join(told['releases'])}. {told['terms']}"
    ).strip()


def _files(form: Format) -> dict[str, Any]:
    """The files with the data, as a set below the folder of croissant.json."""
    globs = form.globs
    ending = globs[0].rpartition(".")[2]
    return {
        "@type": "cr:FileSet",
        "@id": FILES,
        "name": FILES,
        "encodingFormat": MIME.get(ending, "application/octet-stream"),
        "includes": globs if len(globs) > 1 else globs[0],
    }


def _records(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"records/{name}",
                "name": name,
                "dataType": kind,
                "source": {"fileSet": {"@id": FILES}, "extract": {"column": name}},
            }
            for name, kind in fields.items()
        ],
    }
