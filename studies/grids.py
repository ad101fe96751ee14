"""Which site of a study the hourly series of `--grid` is of: the one whose zone it has, and no other."""

from typing import TYPE_CHECKING

from afterwatt.studies.errors import OptionError

if TYPE_CHECKING:
    from afterwatt.hwprofiles.grid import HourlyGrid
    from afterwatt.hwprofiles.sites import Site
    from afterwatt.studies.config import StudyConfig

NOWHERE = "WORLD"
"""Zone of the site that stands for no place; alone, it takes any grid."""


class GridFile:
    """The file of `--grid`, read once for each site.

    A series is applied to the site whose zone it is of. A study of one site takes another's too where the zone is said
    (--grid-zone), where nobody knows it, or where the site is the world.
    """

    def __init__(self, study: "StudyConfig") -> None:
        self._study = study
        self._read: dict[str, HourlyGrid] = {}

    def of(self, site: "Site") -> "HourlyGrid | None":
        """Return the series of a site; None where no file is given.

        Raises:
            HardwareError: see `load_grid`.
            OptionError: the file is of another place.
        """
        if self._study.grid is None:
            return None
        if site.key not in self._read:
            self._read[site.key] = self._load(self._study.grid, site)
        return self._read[site.key]

    def _load(self, address: str, site: "Site") -> "HourlyGrid":
        from afterwatt.hwprofiles.gridfiles import load_grid, split_address
        from afterwatt.hwprofiles.gridtables import is_called

        said = self._study
        grid = load_grid(address, said.grid_zone, said.basis, repeat_year=said.repeat_year, codes=site.codes)
        named = said.grid_zone is not None or "zone" in split_address(address)[1]
        alone = len(said.site) == 1 and (named or not grid.zone or site.zone == NOWHERE)
        if alone or is_called(grid.zone, site.codes):
            return grid
        whose = f"zone {grid.zone}" if grid.zone else "no zone that it names"
        way = (
            f"say --grid-zone {grid.zone or 'ZONE'} if it is meant"
            if len(said.site) == 1
            else "leave that site out or give a file of it"
        )
        raise OptionError(f"--grid {grid.source} is of {whose}, --site {site.key} is in {site.zone}; {way}")
