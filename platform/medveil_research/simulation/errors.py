"""Why a simulation is not run, or not gone on with."""

from __future__ import annotations

from medveil.errors import Error


class BadSimulation(Error):
    """What was asked for cannot be simulated."""

    code = "bad-simulation"

    def __init__(self, *, problem: str, remedy: str = "Change it and run the command again.") -> None:
        super().__init__(
            what=f"This cannot be simulated: {problem}.",
            meaning="Nothing was started, and nothing was written.",
            remedy=remedy,
        )


class TooFewHospitals(Error):
    """Fewer hospitals than a sum of this study needs."""

    code = "too-few-hospitals"

    def __init__(self, *, hospitals: int, needed: int) -> None:
        super().__init__(
            what=f"{hospitals} hospitals were asked for; a sum of this study needs {needed}.",
            meaning="Every round would end without a sum, so none was started.",
            remedy="Give more with --hospitals, or another study: it says min_hospitals and colluders.",
        )


class MoreHospitalsThanPatients(Error):
    """There is not one training patient for each hospital."""

    code = "more-hospitals-than-patients"

    def __init__(self, *, hospitals: int, patients: int) -> None:
        super().__init__(
            what=f"{hospitals} hospitals were to be drawn from {patients} training patients.",
            meaning="A hospital without a patient trains nothing, so nothing was started.",
            remedy="Give fewer with --hospitals, or a larger data set.",
        )


class BadSplit(Error):
    """The word for how patients are dealt to hospitals is none of those there are."""

    code = "bad-split"

    def __init__(self, *, given: str, problem: str) -> None:
        super().__init__(
            what=f"'{given}' says in no known way how patients are dealt to hospitals: {problem}.",
            meaning="Nothing was started.",
            remedy="Write equal, dirichlet:0.5, shards:2 or column:NAME with --split.",
        )


class BadSchedule(Error):
    """The schedule of dropouts and stragglers does not say what it must."""

    code = "bad-schedule"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The schedule of dropouts cannot be used: {problem}.",
            meaning="Nothing was started.",
            remedy="docs/researcher.md shows one; shares lie between 0 and 1, hospitals count from 1.",
        )


class OtherSimulation(Error):
    """A folder holds the beginning of another simulation."""

    code = "other-simulation"

    def __init__(self, *, folder: str, differs: str) -> None:
        super().__init__(
            what=f"The folder '{folder}' holds another simulation; what differs: {differs}.",
            meaning="Going on would mix two studies in one curve, so nothing was changed.",
            remedy="Name another folder with -o, or give what the folder was begun with.",
        )
