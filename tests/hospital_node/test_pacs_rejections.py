"""A PACS that refuses an association says why, and the operator hears it, however fast the line ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hospital_node.pacs.dimse import Dimse
from hospital_node.pacs.peer import Query, Series
from hospital_node.pacs.problems import PacsBusy, PacsLacks, PacsLogin, PacsUnreachable
from medveil.errors import Error

pynetdicom = pytest.importorskip("pynetdicom", reason="pip install 'medveil[dimse]'")
FIND, CT = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.1.2"


def rejection(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8, table 9-21)."""
    return struct.pack(">BBLBBBB", 3, 0, 4, 0, result, source, reason)


ABORT = struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 2, 0)
REFUSALS = [
    (rejection(1, 1, 3), PacsLogin, "this node's title"),
    (rejection(1, 1, 7), PacsLogin, "another title than the address"),
    (rejection(1, 1, 1), PacsLogin, "does not say why"),
    (rejection(1, 2, 1), PacsLogin, "does not say why"),
    (rejection(2, 3, 2), PacsBusy, "no room"),
    (rejection(2, 1, 1), PacsBusy, "no room"),
    (rejection(9, 9, 99), PacsLogin, "does not say why"),
    (ABORT, PacsUnreachable, "broke the association off"),
    (b"", PacsUnreachable, "no association"),
]


@contextmanager
def answering(answer: bytes) -> Iterator[Dimse]:
    """A PACS that gives each question for an association this answer and ends the line at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            line, _ = listener.accept()
            with line, line.makefile("rb") as asked:
                asked.read(struct.unpack(">xxL", asked.read(6))[0])
                line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Dimse(f"dimse://PACS@127.0.0.1:{listener.getsockname()[1]}", title="NODE")
        thread.join()


@pytest.mark.parametrize(("answer", "problem", "words"), REFUSALS)
def test_the_reason_of_a_refusal_is_heard_after_the_line_has_ended(
    answer: bytes, problem: type[Error], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loaded machine the library's thread that reads may have heard the answer and closed the line
    before its thread that asks looks at it."""
    from pynetdicom.acse import ACSE

    send = ACSE.send_request

    def sent(self: Any) -> None:
        send(self)
        self.dul.join(60)

    monkeypatch.setattr(ACSE, "send_request", sent)
    with answering(answer) as pacs, pytest.raises(problem, match=words) as refused:
        pacs.check()
    assert type(refused.value) is problem


def test_the_reason_of_a_refusal_is_heard_while_the_line_is_there() -> None:
    answer, problem, words = REFUSALS[0]
    with answering(answer) as pacs, pytest.raises(problem, match=words):
        pacs.check()


@contextmanager
def associating() -> Iterator[Dimse]:
    """A PACS that lets everybody in to search and to hand over CT images."""
    entity: Any = pynetdicom.AE(ae_title="PACS")
    entity.add_supported_context(FIND)
    entity.add_supported_context(CT, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        yield Dimse(f"dimse://PACS@127.0.0.1:{server.server_address[1]}", title="NODE")
    finally:
        server.shutdown()
        server.server_close()


def test_a_pacs_that_lets_in_and_does_not_do_what_is_asked_is_called_so() -> None:
    with associating() as pacs:
        with pytest.raises(PacsLacks, match="C-ECHO"):
            pacs.check()
        with pytest.raises(PacsLacks, match="C-GET"):
            list(pacs.instances(Series(examination="1.2", uid="1.2.3")))


@pytest.mark.parametrize("question", ["associate", "send_c_find"])
def test_an_association_that_ends_before_it_is_used_is_no_traceback(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whose = pynetdicom.AE if question == "associate" else pynetdicom.association.Association
    asks = getattr(whose, question)

    def ended(self: Any, *told: Any, **named: Any) -> Any:
        if question == "send_c_find":
            self.abort()
            return asks(self, *told, **named)
        line = asks(self, *told, **named)
        line.abort()
        return line

    monkeypatch.setattr(whose, question, ended)
    with associating() as pacs, pytest.raises(PacsUnreachable, match="ended the association"):
        list(pacs.examinations(Query()))
