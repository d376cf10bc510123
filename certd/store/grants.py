"""Rows of grants."""

import json
from typing import Any

from sqlalchemy import Select, bindparam, select

from certd.model.access import Grant, Role
from certd.store import schema
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import json_text

_grants = schema.grants
_INSERT = insert_if_absent(_grants)
_OF_PRINCIPAL: Select[Any] = (
    select(_grants.c.grant_id, _grants.c.principal, _grants.c.role, _grants.c.scope, _grants.c.profiles)
    .where(_grants.c.principal == bindparam("of_principal"))
    .order_by(_grants.c.grant_id)
)


def insert(tx: Transaction, grant: Grant) -> bool:
    """Inserts a grant; returns False, and changes nothing, when there is one with this id."""
    columns = {
        "grant_id": grant.grant_id,
        "principal": grant.principal,
        "role": grant.role.value,
        "scope": grant.scope,
        "profiles": None if grant.profiles is None else json_text(sorted(grant.profiles)),
    }
    tx.configuration_changed()
    return tx.execute(_INSERT, columns).rowcount == 1


def of_principal(tx: Transaction, principal: str) -> list[Grant]:
    """Returns every grant of a principal, in the order of their ids."""
    return [
        Grant(
            grant_id=row.grant_id,
            principal=row.principal,
            role=Role(row.role),
            scope=row.scope,
            profiles=None if row.profiles is None else frozenset(json.loads(row.profiles)),
        )
        for row in tx.execute(_OF_PRINCIPAL, {"of_principal": principal})
    ]
