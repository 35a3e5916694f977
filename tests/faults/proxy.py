"""A TCP proxy in front of a server, which breaks the network in the ways networks break.

A connection is known by its purpose, the application name in its first bytes: "pqlite claimer", "pqlite settler",
"pqlite sentinel", "pqlite" (the pool). The purpose "" means every connection, also those still to come.
"""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Connection:
    def __init__(self, client: asyncio.StreamWriter, first: bytes) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.first = first
        self.lost = False

    def serves(self, purpose: str) -> bool:
        return purpose == "" or b"application_name\0" + purpose.encode() + b"\0" in self.first

    def reset(self, *, client: bool = True) -> None:
        for writer in (self.client if client else None, self.server):
            if writer is not None:
                writer.transport.abort()


class Proxy:
    """Passes everything on until told otherwise. Bytes in a black hole are late, not lost: `heal` delivers them."""

    def __init__(self, dsn: str) -> None:
        self._upstream = urlsplit(dsn)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._holes: set[str] = set()
        self._loses: tuple[str, bytes] | None = None
        self._changed = asyncio.Condition()
        self.delay = 0.0
        self.answers_lost = 0

    @property
    def dsn(self) -> str:
        """The server's address, by way of us."""
        port = self._listener.sockets[0].getsockname()[1]
        user = f"{self._upstream.username}:{self._upstream.password or ''}"
        return f"postgresql://{user}@127.0.0.1:{port}{self._upstream.path}?sslmode=disable"

    def black_hole(self, purpose: str = "", *, new_ones: bool = True, server_hears: bool = False) -> None:
        """Let nothing through any more, in either direction, and tell nobody (or the server alone).

        Without `new_ones`, connections made from now on pass.
        """
        if new_ones:
            self._holes.add(purpose)
        for connection in [c for c in self._connections if c.serves(purpose)]:
            connection.lost = True
            if server_hears:
                connection.reset(client=False)

    def lose_answer(self, purpose: str, marker: bytes) -> None:
        """Swallow the next answer of the server that holds the marker, and reset its connection."""
        self._loses = (purpose, marker)

    def reset(self, purpose: str = "") -> None:
        """Cut connections, audibly."""
        for connection in [c for c in self._connections if c.serves(purpose)]:
            connection.reset()

    async def heal(self) -> None:
        """Let everything through again."""
        self._holes.clear()
        for connection in self._connections:
            connection.lost = False
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listener.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(writer, b"")
        self._connections.add(connection)
        try:
            connection.first = await reader.read(65536)
            await self._passable(connection)
            from_server, connection.server = await self._connect()
            connection.server.write(connection.first)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, reader, connection.server))
                pumps.create_task(self._pump(connection, from_server, writer, answers=True))
        except (OSError, asyncio.CancelledError):
            pass  # The server is away: the client sees a reset. Cancelled: the proxy closes.
        finally:
            connection.reset()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._upstream.query)
        host = query.get("host", [self._upstream.hostname or "127.0.0.1"])[0]
        port = int(query.get("port", [self._upstream.port or 5432])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answers: bool = False,
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self._loses and connection.serves(self._loses[0]) and self._loses[1] in data:
                    self._loses, self.answers_lost = None, self.answers_lost + 1
                    break
                await self._passable(connection)
                writer.write(data)
                await writer.drain()
        await self._passable(connection)  # a hang-up cannot be heard through a black hole either
        connection.reset()

    async def _passable(self, connection: Connection) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not (connection.lost or any(map(connection.serves, self._holes))))
