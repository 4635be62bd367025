# SPDX-License-Identifier: Apache-2.0
"""The sites of an instance, from `sites.yaml`."""

from glideflow.configuration import read_configuration
from glideflow.domain.site import Site
from glideflow.errors import SettingsError
from glideflow.settings import Settings

SITES_FILE = "sites.yaml"
DEFAULT_SITE = "local"
BEGINNING = "expected `sites:` followed by a list of sites; see config/sites.example.yaml"


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
    file = read_configuration(path, BEGINNING)
    entries = file.values.get("sites")
    if not isinstance(entries, list):
        raise SettingsError(f"{path}: {BEGINNING}")
    sites: dict[str, Site] = {}
    for position in range(len(entries)):
        site = file.part(Site, ("sites", position))
        if site.name in sites:
            text = f"there are two sites named {site.name}: rename one"
            raise SettingsError(file.places.sentence(("sites", position, "name"), text))
        sites[site.name] = site
    if not sites:
        raise SettingsError(f"{path}: the list of sites is empty: give at least one, or remove the file")
    return sites
