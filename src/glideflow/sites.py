# SPDX-License-Identifier: Apache-2.0
"""The sites of an instance, from `sites.yaml`."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from glideflow.domain.site import Site
from glideflow.errors import SettingsError
from glideflow.settings import Settings

SITES_FILE = "sites.yaml"
DEFAULT_SITE = "local"


def load_sites(settings: Settings, launcher: str | None = None, slots: int | None = None) -> dict[str, Site]:
    """Read the sites of an instance.

    Args:
        settings: The instance's settings.
        launcher: How the default site starts pilots when there is no file.
        slots: Most pilots of the default site when there is no file.

    Returns:
        The sites by name; one named `local` when there is no file.

    Raises:
        SettingsError: The file cannot be used; the message names file, line, key and what is allowed.
    """
    path = settings.sites_file or settings.home / SITES_FILE
    if not path.exists():
        if settings.sites_file is not None:
            raise SettingsError(f"the sites file {path} does not exist: correct the setting `sites_file`")
        chosen = launcher or settings.launcher or "htcondor"
        most = slots or settings.pool_slots
        site = Site.model_validate({"name": DEFAULT_SITE, "launcher": chosen, "max_pilots": most, "max_queued": most})
        return {DEFAULT_SITE: site}
    try:
        document = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(document, CommentedMap) or not isinstance(document.get("sites"), CommentedSeq):
        raise SettingsError(f"{path}: expected `sites:` followed by a list of sites; see config/sites.example.yaml")
    sites: dict[str, Site] = {}
    for position, entry in enumerate(document["sites"]):
        line = document["sites"].lc.item(position)[0] + 1
        site = _site(path, line, entry)
        if site.name in sites:
            raise SettingsError(f"{path}, line {line}: there are two sites named {site.name}: rename one")
        sites[site.name] = site
    if not sites:
        raise SettingsError(f"{path}: the list of sites is empty: give at least one, or remove the file")
    return sites


def _site(path: Path, line: int, entry: Any) -> Site:
    if not isinstance(entry, CommentedMap):
        raise SettingsError(f"{path}, line {line}: expected a site with `name: ...`, found {entry!r}")
    try:
        return Site.model_validate(dict(entry))
    except ValidationError as error:
        raise SettingsError("\n".join(_problem(path, line, entry, dict(p)) for p in error.errors())) from error


def _problem(path: Path, line: int, entry: CommentedMap, problem: dict[str, Any]) -> str:
    key = str(problem["loc"][0])
    if key in entry:
        line = entry.lc.key(key)[0] + 1
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Site.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(Site.model_fields)}"
        return f"{path}, line {line}: a site has no key {key}; {hint}"
    return f"{path}, line {line}: {key}: {problem['msg']} (got {problem['input']!r})"
