"""What can be wrong between a node and its PACS: with the PACS as a whole, or with one series."""

from __future__ import annotations

from collections.abc import Iterable

from medveil.errors import Error

NOTHING_FETCHED = "Nothing more was fetched; what came before is kept."


class NoPacs(Error):
    """The node knows no PACS."""

    code = "no-pacs"

    def __init__(self) -> None:
        super().__init__(
            what="This node was told of no PACS.",
            meaning="Nothing was asked for.",
            remedy="Run 'medveil node pacs connect ADDRESS' first; docs/pacs.md shows how.",
        )


class PacsUnreachable(Error):
    """The PACS does not answer, or stops in the middle of an answer."""

    code = "pacs-unreachable"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The PACS did not answer to the end: {reason}.",
            meaning=NOTHING_FETCHED,
            remedy="Check address, port and proxy with those who run the PACS, then run the command again: "
            "it goes on where it was.",
        )


class PacsLogin(Error):
    """The PACS does not let this node in."""

    code = "pacs-login"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The PACS refused this node: {reason}.",
            meaning=NOTHING_FETCHED,
            remedy="Check user and password file (DICOMweb), or the titles of both sides (DIMSE), with those "
            "who run the PACS.",
        )


class PacsBusy(PacsUnreachable):
    """The PACS has no room for an association now."""

    code = "pacs-busy"

    def __init__(self) -> None:
        Error.__init__(
            self,
            what="The PACS refused this node for the moment: it has no room for another association.",
            meaning=NOTHING_FETCHED,
            remedy="Run the command again later, or choose quieter hours with --pacs-hours: it goes on where "
            "it was.",
        )


class PacsLacks(Error):
    """The PACS lets this node in but does not do what is asked of it."""

    code = "pacs-lacks"

    def __init__(self, *, services: Iterable[str]) -> None:
        super().__init__(
            what=f"The PACS does not do {', '.join(sorted(services))} for this node.",
            meaning=NOTHING_FETCHED,
            remedy="Have it allowed for this node's title by those who run the PACS, or connect by DICOMweb.",
        )


class PacsCertificate(Error):
    """The PACS shows a TLS certificate that is not valid here."""

    code = "pacs-certificate"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The certificate of the PACS is not accepted: {reason}.",
            meaning="No password was sent, and nothing was fetched.",
            remedy="Is this machine's clock right? Then have the certificate renewed, or name the hospital's "
            "own authority with --pacs-ca.",
        )


class NotAPacs(Error):
    """What answers at the address does not speak DICOMweb."""

    code = "not-a-pacs"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The answer is not that of a PACS: {reason}.",
            meaning=NOTHING_FETCHED,
            remedy="Check the address: for Orthanc it ends in /dicom-web. A log-in page or a proxy may stand "
            "in between.",
        )


class BadPacsList(Error):
    """A list of accession numbers, or of patients who said no, cannot be used."""

    code = "bad-pacs-list"

    def __init__(self, *, name: str, problem: str, remedy: str) -> None:
        super().__init__(
            what=f"The {name} cannot be used: {problem}",
            meaning="Who may come in is not certain, so nothing was fetched.",
            remedy=remedy,
        )


class PasswordShown(Error):
    """The password of the PACS lies, or would travel, where others can read it."""

    code = "pacs-password-shown"

    def __init__(self, *, problem: str, remedy: str) -> None:
        super().__init__(
            what=problem, meaning="The password was not used, and nothing was sent.", remedy=remedy
        )


class DimseMissing(Error):
    """The extra that speaks DIMSE is not installed."""

    code = "no-dimse"

    def __init__(self) -> None:
        super().__init__(
            what="This installation cannot speak DIMSE.",
            meaning="Nothing was asked for.",
            remedy="Install the extra 'dimse' (pip install 'medveil[dimse]'), or use DICOMweb.",
        )


class OutsideHours(Error):
    """The hospital lets images be fetched at other hours only."""

    code = "pacs-outside-hours"

    def __init__(self, *, hours: str) -> None:
        super().__init__(
            what=f"The PACS may be asked for images between {hours} only.",
            meaning=NOTHING_FETCHED,
            remedy="Run the command again then, or with --wait: it goes on by itself when the hour has come.",
        )


class SeriesRefused(Error):
    """One series does not come in; the others do."""

    code = "error"


_LEFT_OUT = "The series was left out, and nothing of it was kept; the others were fetched."


class AnotherPatient(SeriesRefused):
    """The PACS sent an instance of somebody else."""

    code = "pacs-another-patient"

    def __init__(self) -> None:
        super().__init__(
            what="The PACS sent an image of another patient than it had named.",
            meaning=_LEFT_OUT,
            remedy="Tell those who run the PACS: its index and its images disagree.",
        )


class AnotherSeries(SeriesRefused):
    """The PACS sent an instance that was not asked for."""

    code = "pacs-another-series"

    def __init__(self) -> None:
        super().__init__(
            what="The PACS sent an image of another examination or series than was asked for.",
            meaning=_LEFT_OUT,
            remedy="Tell those who run the PACS: its index and its images disagree.",
        )


class NoPatient(SeriesRefused):
    """An instance names no patient."""

    code = "pacs-no-patient"

    def __init__(self) -> None:
        super().__init__(
            what="An image names no patient, or a placeholder for everybody.",
            meaning=f"Whether that patient said no cannot be known. {_LEFT_OUT}",
            remedy="Have the patient's number entered in the PACS.",
        )


class NotDicom(SeriesRefused):
    """The PACS sent bytes that are no DICOM instance."""

    code = "pacs-not-dicom"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The PACS sent something that is no readable image: {reason}",
            meaning=_LEFT_OUT,
            remedy="Open the series in a viewer; have it stored anew if it is damaged.",
        )


class SeriesGrew(SeriesRefused):
    """Instances were added while the series was fetched, twice in a row."""

    code = "pacs-series-grew"

    def __init__(self) -> None:
        super().__init__(
            what="Images were added to the series while it was fetched.",
            meaning=_LEFT_OUT,
            remedy="Run the command again when the examination is complete.",
        )


class SeriesIncomplete(SeriesRefused):
    """Another number of instances came than the PACS holds."""

    code = "pacs-series-incomplete"

    def __init__(self, *, came: int, told: int) -> None:
        super().__init__(
            what=f"{came} images of the series came; the PACS says it has {told}.",
            meaning=_LEFT_OUT,
            remedy="Run the command again: the series is fetched again whole.",
        )


class OptedOut(SeriesRefused):
    """The patient is on the opt-out list."""

    code = "pacs-opted-out"

    def __init__(self) -> None:
        super().__init__(
            what="The patient, or the examination, is on the opt-out list.",
            meaning=_LEFT_OUT,
            remedy="Nothing need be done.",
        )


class UnknownAccession(SeriesRefused):
    """An accession number of the list is not in the PACS, or nothing there fits the query."""

    code = "pacs-unknown-accession"

    def __init__(self) -> None:
        super().__init__(
            what="The PACS has nothing that fits under this accession number.",
            meaning="The line was left out; the others were fetched.",
            remedy="Compare it with the PACS: a spreadsheet may have dropped zeros. Modality, body part and "
            "description must fit as well.",
        )


class BadLine(SeriesRefused):
    """A line of the list of accession numbers cannot be used."""

    code = "pacs-bad-line"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"A line of the list cannot be used: {problem}.",
            meaning="The line was left out; the others were fetched.",
            remedy="Correct the line and run the command again.",
        )


class SeriesTooLarge(SeriesRefused):
    """A series is larger than this node takes in."""

    code = "pacs-too-large"

    def __init__(self, *, limit: str) -> None:
        super().__init__(
            what=f"The series is larger than {limit}.",
            meaning=_LEFT_OUT,
            remedy="Ask for a narrower description, so that only the series that are needed come.",
        )


class SegmentsUnclear(SeriesRefused):
    """The segments of an outline are not those that were named."""

    code = "pacs-segments"

    def __init__(self) -> None:
        super().__init__(
            what="The outline does not have each segment that --segment names exactly once.",
            meaning="The outline was left out; its images came in.",
            remedy="Compare the names with the segments in a viewer, or choose others with --outlines.",
        )


class SeveralOutlines(SeriesRefused):
    """Somebody must choose."""

    code = "pacs-several-outlines"

    def __init__(self) -> None:
        super().__init__(
            what="The PACS has several outlines of one series.",
            meaning="No outline was taken; the images came in.",
            remedy='Choose one by words in its description: --outlines "final".',
        )


class OutlineElsewhere(SeriesRefused):
    """An outline of what is not here."""

    code = "pacs-outline-elsewhere"

    def __init__(self) -> None:
        super().__init__(
            what="The outline was drawn on a series that was not fetched.",
            meaning="The outline was left out; the others were fetched.",
            remedy="Ask for that series as well, or choose other outlines with --outlines.",
        )
