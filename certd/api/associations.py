"""ManagedCertificateService, associations: convert, call `services.associations`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.associations import Associations


def methods(associations: Associations, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateAssociation": partial(create_association, associations, limits),
        "GetAssociation": partial(get_association, associations, limits),
        "ListAssociations": partial(list_associations, associations, limits),
        "DeleteAssociation": partial(delete_association, associations, limits),
    }


def create_association(associations: Associations, limits: RequestLimits, request: Any, call: Call) -> Any:
    """CreateAssociation."""
    raise NotImplementedError


def get_association(associations: Associations, limits: RequestLimits, request: Any, call: Call) -> Any:
    """GetAssociation."""
    raise NotImplementedError


def list_associations(associations: Associations, limits: RequestLimits, request: Any, call: Call) -> Any:
    """ListAssociations."""
    raise NotImplementedError


def delete_association(associations: Associations, limits: RequestLimits, request: Any, call: Call) -> Any:
    """DeleteAssociation."""
    raise NotImplementedError
