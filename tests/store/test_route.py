"""Connections that meet a pooler now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from pqlite.store import route as routes
from pqlite.store.route import Pooling, Route


async def test_a_way_that_leads_to_a_pooler_and_past_it_by_turns_yields_a_connection_that_works_on_either(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []

    class ByTurns(Route):
        async def _open(self, label: str, prepares: bool) -> asyncpg.Connection[Any]:
            opened.append(prepares)
            return await super()._open(label, prepares)

        async def _attempt(
            self, label: str, settings: Mapping[str, str], *, for_any: bool = False
        ) -> tuple[asyncpg.Connection[Any], bool]:
            conn, _ = await super()._attempt(label, settings, for_any=for_any)
            self.pooling = Pooling.TRANSACTION if len(opened) % 2 else Pooling.NONE
            return conn, False

    conn = await ByTurns(dsn).connection("test", {"array_nulls": "on"})
    try:
        assert await conn.fetchval("select 1") == 1
    finally:
        await conn.close()

    assert len(opened) == routes.ATTEMPTS
    assert not opened[-1]
