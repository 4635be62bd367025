# SPDX-License-Identifier: Apache-2.0
"""Fill the operator's submit templates: with values that cannot say anything but what they should.

A newline in a value would add a line to the submit description, and `$ENV(NAME)` would be expanded with the
environment of this process, even in item data. So every value must match the form of its kind; a text of a user never
gets here at all.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound

from glideflow.condor.errors import SubmissionRefused
from glideflow.domain.site import Site
from glideflow.errors import SettingsError
from glideflow.resources import resource_dir

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATH = r"/[\w.@+=~:%/-]*"
_FORMS: Mapping[str, re.Pattern[str]] = {
    key: re.compile(form)
    for key, form in {
        "site": _NAME, "instance": _NAME, "pilot_id": _NAME, "ca_name": _NAME,
        "pilot_server": r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~/-]*)?",
        "archive": _PATH, "ca_file": _PATH, "pilot_folder": _PATH,
        "cores": "[0-9]+", "memory_mb": "[0-9]+", "disk_mb": "[0-9]+", "wall_seconds": "[0-9]+",
        "vacate_seconds": "[0-9]+",
    }.items()
}  # fmt: skip
"""The allow-list: each value a template may use, and the only form it may have."""


def checked(key: str, value: object) -> str:
    """Return a value as text when it has the form of its kind.

    Args:
        key: Name of the value, of the allow-list.
        value: The value.

    Raises:
        SubmissionRefused: The name is unknown, or the value holds what HTCondor would take for more than a value.
    """
    form = _FORMS.get(key)
    if form is None:
        raise SubmissionRefused(f"submit templates have no value {key}; allowed are {', '.join(sorted(_FORMS))}")
    text = str(value)
    if not form.fullmatch(text):
        raise SubmissionRefused(
            f"{key} = {text!r} cannot stand in a submit description: only letters, digits and few signs are allowed, "
            "no spaces, quotes, commas, `$` or control characters"
        )
    return text


def render(site: Site, *, instance: str, archive: PurePath, ca_file: PurePath) -> str:
    """Return the submit description of a site's pilots.

    Args:
        site: The site; its `template` names a file of `condor_templates`.
        instance: Name of the instance, which marks its pilots.
        archive: The executable, the pilot as one file.
        ca_file: CA certificate that travels with each pilot.

    Raises:
        SettingsError: There is no such template, or it has an error.
        SubmissionRefused: A value is not allowed.
    """
    values = {
        "site": site.name, "instance": instance, "archive": archive, "ca_file": ca_file, "ca_name": ca_file.name,
        "cores": site.cores, "memory_mb": site.memory_mb, "disk_mb": site.disk_mb, "wall_seconds": site.wall_seconds,
        "vacate_seconds": int(site.vacate_seconds),
    }  # fmt: skip
    # Numbers stay numbers: templates calculate with them.
    safe = {key: value if isinstance(value, int) else checked(key, value) for key, value in values.items()}
    folder = resource_dir("condor_templates")
    try:
        return _templates(folder).get_template(site.template).render(safe)
    except TemplateNotFound as error:
        known = ", ".join(sorted(path.name for path in folder.glob("*.sub.j2")))
        raise SettingsError(
            f"site {site.name}: there is no template {site.template} in {folder}: use {known}"
        ) from error
    except TemplateError as error:
        raise SettingsError(f"site {site.name}: template {folder / site.template}: {error}") from error


def item(*, pilot_id: str, folder: PurePath, server_url: str) -> dict[str, str]:
    """Return what differs from pilot to pilot, as item data.

    Raises:
        SubmissionRefused: A value is not allowed.
    """
    values = {"pilot_id": pilot_id, "pilot_folder": folder, "pilot_server": server_url}
    return {key: checked(key, value) for key, value in values.items()}


def _templates(folder: Path) -> Environment:
    # Not HTML: the values are checked above instead of escaped.
    return Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False)
