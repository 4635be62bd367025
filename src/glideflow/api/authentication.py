# SPDX-License-Identifier: Apache-2.0
"""Who sent a request: a user by token, or a pilot by its session key."""

from typing import Annotated

from fastapi import Depends, Request

from glideflow.api.context import Context
from glideflow.domain.identifiers import PilotId
from glideflow.domain.identity import Identity
from glideflow.errors import NotAuthenticated


def context_of(request: Request) -> Context:
    """Return the endpoint's parts."""
    context = request.app.state.context
    if not isinstance(context, Context):
        raise TypeError("the application was made without its context")
    return context


def bearer_of(request: Request) -> str:
    """Return the request's bearer token.

    Raises:
        NotAuthenticated: There is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("the request has no bearer token: send `Authorization: Bearer ...`")
    return token


ContextOf = Annotated[Context, Depends(context_of)]
BearerOf = Annotated[str, Depends(bearer_of)]


def authenticated_user(context: ContextOf, bearer: BearerOf) -> Identity:
    """Return the user who sent the request."""
    return context.token.authenticate(bearer)


def authenticated_pilot(context: ContextOf, bearer: BearerOf) -> PilotId:
    """Return the pilot that sent the request."""
    return context.keys.authenticate(bearer)


def authenticated_any(context: ContextOf, bearer: BearerOf) -> Identity | PilotId:
    """Return the user or the pilot that sent the request; a pilot's token has a dot, a user's has none."""
    if "." in bearer:
        return context.keys.authenticate(bearer)
    return context.token.authenticate(bearer)


User = Annotated[Identity, Depends(authenticated_user)]
Pilot = Annotated[PilotId, Depends(authenticated_pilot)]
Anyone = Annotated[Identity | PilotId, Depends(authenticated_any)]
