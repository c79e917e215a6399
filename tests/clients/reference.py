"""The written reference, as tests read it."""

import pathlib

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "api-ref"
PROJECT = "/v3/{project_id}"


def listed_routes():
    """Of every route in the tables of the reference: method and path, and its first microversion."""
    routes = {}
    for line in (REFERENCE / "README.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")]
        if len(cells) > 4 and cells[2].startswith("/"):
            routes[cells[1], cells[2]] = cells[3]
    return routes


def short(path):
    """A path of openapi.yaml as the tables have it."""
    return path.removeprefix(PROJECT) or path
