"""A line without a proxy: large answers in few pieces, bounded memory, and every end of it has its name."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from medveil.outgoing import FAILURES, open_client, pinned
from medveil.straight import MOST_READ

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n"
LARGE = 4 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for this machine."""
    made = tmp_path_factory.mktemp("tls")
    make_certificates(made, ("127.0.0.1", "localhost"))
    return made


@asynccontextmanager
async def line_to(serve: Serve, folder: Path, *, name: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server over TLS that serves one connection after the other so."""
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(folder / "server.pem", folder / "server.key")

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(served, "127.0.0.1", 0, ssl=shown) as server:
        address = f"https://{name}:{server.sockets[0].getsockname()[1]}"
        async with open_client(address, pinned(folder / "ca.pem"), None) as client:
            yield client


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD.format(len(body)).encode() + body)
    await writer.drain()


def test_a_large_answer_comes_whole_in_pieces_larger_than_a_record_and_the_line_is_used_again(
    folder: Path,
) -> None:
    lines: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)
        while True:
            await answer(reader, writer, bytes(range(256)) * (LARGE // 256))

    async def run() -> list[int]:
        async with line_to(serve, folder, name="localhost") as client:
            for _ in range(2):
                async with client.stream("GET", "/") as response:
                    pieces = [piece async for piece in response.aiter_raw()]
                assert b"".join(pieces) == bytes(range(256)) * (LARGE // 256)
            return [len(piece) for piece in pieces]

    sizes = asyncio.run(run())
    assert max(sizes) > 2**14  # a record
    assert len(lines) == 1


def test_an_answer_that_nobody_reads_does_not_pile_up(folder: Path) -> None:
    taken: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD.format(64 * LARGE).encode())
        for _ in range(64):
            writer.write(bytes(LARGE))
            await writer.drain()
            taken.append(LARGE)

    async def run() -> tuple[int, int]:
        async with line_to(serve, folder) as client, client.stream("GET", "/") as response:
            stream = response.extensions["network_stream"]
            lying = -1
            while lying != (lying := stream._end.size) or not lying:  # until nothing more comes
                for _ in range(50):
                    await asyncio.sleep(0)
            stopped = len(taken)
            first = await anext(response.aiter_raw())
            return (lying, stopped) if first else (0, 0)

    lying, stopped = asyncio.run(run())
    assert 0 < lying <= 2 * MOST_READ
    assert stopped < 64


@pytest.mark.parametrize("after", [0, 10])
def test_a_line_that_is_cut_fails_at_once_whether_in_head_or_body(folder: Path, after: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if after:
            writer.write(HEAD.format(100).encode() + bytes(after))
            await writer.drain()

    async def run() -> None:
        async with line_to(serve, folder) as client:
            await client.get("/")

    with pytest.raises(FAILURES):
        asyncio.run(run())


def test_a_server_that_says_nothing_is_waited_for_as_long_as_was_said(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run(**seconds: float) -> None:
        async with line_to(serve, folder) as client:
            await client.get("/", timeout=httpx.Timeout(60.0, **seconds))

    with pytest.raises(httpx.ReadTimeout):
        asyncio.run(run(read=0.05))


def test_a_body_that_nobody_takes_is_given_up_in_time(folder: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3600)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(LARGE)

    async def run() -> None:
        async with line_to(serve, folder) as client:
            await client.post("/", content=body(), timeout=httpx.Timeout(60.0, write=0.05))

    with pytest.raises(httpx.WriteTimeout):
        asyncio.run(run())


def test_a_line_that_the_server_has_ended_while_it_was_at_rest_is_not_used_again(folder: Path) -> None:
    lines: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)
        await answer(reader, writer, b"well")

    async def run() -> None:
        async with line_to(serve, folder) as client:
            for _ in range(3):
                assert (await client.get("/")).content == b"well"
                end = time.monotonic() + 10
                pool = client._transport._pool  # type: ignore[attr-defined]
                while not all(one.has_expired() for one in pool.connections):
                    assert time.monotonic() < end
                    await asyncio.sleep(0)

    asyncio.run(run())
    assert len(lines) == 3


def test_a_request_that_is_broken_off_takes_its_line_with_it_and_no_other(folder: Path) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await reader.read()
        else:
            await answer(reader, writer, b"well")

    async def run() -> bytes:
        async with line_to(serve, folder) as client:
            broken = asyncio.create_task(client.get("/"))
            while not asked:
                await asyncio.sleep(0)
            broken.cancel()
            with pytest.raises(asyncio.CancelledError):
                await broken
            return (await client.get("/")).content

    assert asyncio.run(run()) == b"well"


def test_a_name_that_nobody_knows_and_a_port_where_nothing_listens_are_no_connection(folder: Path) -> None:
    async def run(address: str) -> None:
        async with open_client(address, pinned(folder / "ca.pem"), None) as client:
            await client.get("/")

    for address in ("https://127.0.0.1:1", "https://nobody.invalid"):
        with pytest.raises(httpx.ConnectError):
            asyncio.run(run(address))
