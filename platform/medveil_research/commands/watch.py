"""``medveil research watch``: a study as it goes."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from medveil.shown import faint, plain, strong
from medveil_research.commands.common import (
    Folder,
    Named,
    epsilon_words,
    explain,
    figure_words,
    progress,
    screen,
)
from medveil_research.options import FOLDER

if TYPE_CHECKING:
    from medveil_research.results import RoundFacts
    from medveil_research.shared_study import SharedStudy
    from medveil_research.watching import Moment


def watch(study: Named = "", folder: Folder = FOLDER) -> None:
    """Follow a study to its end: a line for each round that ends and, at a terminal, what happens meanwhile.

    A lost connection is taken up again. Exit status 1 if the study ends without figures of its model.
    """
    from medveil_research.consortium import Consortium
    from medveil_research.watching import moments

    with Consortium(folder) as consortium:
        with progress.waiting():
            seen = consortium.study(study)
        screen.say(strong(seen.name), f"plan {seen.id[:8]}, {len(seen.plan.roster)} hospitals")
        lost = ""
        with screen.live() as live:
            for moment in moments(seen):
                seen = moment.study
                for one in moment.ended:
                    screen.say(_line(seen, one))
                if bool(moment.lost) != bool(lost) and not screen.is_terminal:
                    screen.say(f"connection lost: {plain(moment.lost)}" if moment.lost else "connected again")
                lost = moment.lost
                live.show(_now(moment))
        _end(seen)
        explain([seen])
        if folder == FOLDER:
            screen.say(f"Next: medveil research fetch {seen.id[:8]}   or   report {seen.id[:8]}")
        else:
            screen.say(f"Next: medveil research fetch {seen.id[:8]} --folder {quote(str(folder))}")


def _now(moment: Moment) -> list[tuple[str, str]]:
    rows = [("now", moment.study.standing)]
    if moment.lost:
        rows.append(("connection", f"lost: {moment.lost}; asking on (Ctrl-C ends)"))
    return rows


def _line(study: SharedStudy, one: RoundFacts) -> str:
    """One round that has ended, in one line."""
    from medveil_research.words import in_seconds

    kind = " (evaluation)" if one.kind == "evaluate" else ""
    parts = [f"round {one.round} of {study.study.training.rounds + 1}{kind}"]
    if one.outcome == "done":
        parts.append(figure_words(study, one.figures))
        parts.append(f"{len(one.survivors)} of {len(study.plan.roster)} hospitals")
        parts += [in_seconds(one.seconds), epsilon_words(one.epsilon)]
    else:
        parts.append(f"no sum: {plain(one.reason or 'failed', 60)}")
    if one.attempts > 1:
        parts.append(f"{one.attempts} attempts")
    return plain(", ".join(part for part in parts if part))


def _end(study: SharedStudy) -> None:
    """What came of it. Raises: NotEvaluated."""
    words = figure_words(study, study.figures)
    spent = epsilon_words(study.epsilon)
    version = study.version().number
    screen.say(
        strong("finished"),
        plain(", ".join(filter(None, (words, spent, f"model version {version}")))),
        faint(study.id[:8]),
    )
