"""ManagedCertificateService, associations: convert, call `services.associations`, convert back."""

from functools import partial

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.association import Association, Deployment
from certd.model.names import AssociationName, IdentityName, ManagedCertificateName, check_id
from certd.model.request_limits import RequestLimits
from certd.services.association_views import AssociationView
from certd.services.associations import Associations, NewAssociation
from certd.services.paging import Page
from certd.v1 import association_pb2, managed_certificate_pb2, managed_certificate_service_pb2


def methods(associations: Associations, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "CreateAssociation": partial(create_association, associations),
        "GetAssociation": partial(get_association, associations),
        "ListAssociations": partial(list_associations, associations, limits),
        "DeleteAssociation": partial(delete_association, associations),
    }


def create_association(
    associations: Associations, request: managed_certificate_service_pb2.CreateAssociationRequest, call: Call
) -> association_pb2.Association:
    """CreateAssociation."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: ManagedCertificateName.parse("parent", request.parent))
    id_ = violations.attempt(
        lambda: check_id("association_id", request.association_id) if request.association_id else ""
    )
    violations.attempt(lambda: fields.required("association", present=request.HasField("association")))
    consumer = violations.attempt(lambda: IdentityName.parse("association.consumer", request.association.consumer))
    key = violations.attempt(lambda: fields.request_key("CreateAssociation", request, request.request_id))
    violations.check()
    new = NewAssociation(managed_certificate=parent, association_id=id_, consumer=consumer)
    return association_message(associations.create(call.caller, new, key=key, validate_only=request.validate_only))


def get_association(
    associations: Associations, request: managed_certificate_service_pb2.GetAssociationRequest, call: Call
) -> association_pb2.Association:
    """GetAssociation."""
    return association_message(associations.get(call.caller, AssociationName.parse("name", request.name)))


def list_associations(
    associations: Associations,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ListAssociationsRequest,
    call: Call,
) -> managed_certificate_service_pb2.ListAssociationsResponse:
    """ListAssociations."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: ManagedCertificateName.parse("parent", request.parent, wildcard=True))
    consumer = violations.attempt(
        lambda: IdentityName.parse("consumer", request.consumer) if request.consumer else None
    )
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[AssociationView]) -> managed_certificate_service_pb2.ListAssociationsResponse:
        return managed_certificate_service_pb2.ListAssociationsResponse(
            associations=[association_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(
        asked, lambda smaller: associations.page(call.caller, parent, smaller, consumer=consumer), answer
    )


def delete_association(
    associations: Associations, request: managed_certificate_service_pb2.DeleteAssociationRequest, call: Call
) -> managed_certificate_service_pb2.DeleteAssociationResponse:
    """DeleteAssociation."""
    violations = fields.Violations()
    name = violations.attempt(lambda: AssociationName.parse("name", request.name))
    key = violations.attempt(lambda: fields.request_key("DeleteAssociation", request, request.request_id))
    violations.check()
    associations.delete(call.caller, name, key=key)
    return managed_certificate_service_pb2.DeleteAssociationResponse()


def association_message(view: AssociationView) -> association_pb2.Association:
    """Returns an association as a message."""
    association = view.association
    message = association_pb2.Association(
        name=str(association.name),
        consumer=association.consumer,
        consumer_spiffe_id=association.consumer_spiffe_id,
        tenant_uid=view.tenant_uid,
        managed_certificate_uid=association.managed_certificate_uid,
        leased_version=association.leased_version,
        creator=association.creator,
        create_time=x509.timestamp(association.create_time),
        current_version=association.current_version,
        current_certificate_sha256=view.current_certificate_sha256,
        revoked_certificate_sha256=view.revoked_certificate_sha256,
    )
    if association.lease_time is not None:
        message.lease_time.CopyFrom(x509.timestamp(association.lease_time))
    if association.deployment is not None:
        message.deployment.CopyFrom(_deployment_message(association.deployment))
    return message


def use_message(association: Association) -> managed_certificate_pb2.Use:
    """Returns an association as its managed certificate shows it."""
    message = managed_certificate_pb2.Use(
        association=str(association.name),
        consumer=association.consumer_spiffe_id,
        leased_version=association.leased_version,
    )
    if association.lease_time is not None:
        message.lease_time.CopyFrom(x509.timestamp(association.lease_time))
    if association.deployment is not None:
        message.deployment.CopyFrom(_deployment_message(association.deployment))
    return message


def _deployment_message(deployment: Deployment) -> managed_certificate_pb2.Deployment:
    kind = managed_certificate_pb2.Deployment
    return kind(
        state=kind.State.Value(deployment.state),
        version=deployment.version,
        certificate_sha256=deployment.certificate_sha256,
        message=deployment.message,
        report_time=x509.timestamp(deployment.report_time),
    )
