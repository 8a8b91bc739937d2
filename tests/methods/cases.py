"""Small versions of every method of the tables, for the tests that hold for all of them."""

from dataclasses import dataclass

from yarbus.methods import CoVFT, Frozen, Full, NoHead
from yarbus.models.attachment import Method


@dataclass(frozen=True)
class Case:
    """One method in one place, small enough for the models of ``tests.tiny``."""

    place: str
    method: Method


CASES = {
    "vision frozen": Case("vision", Frozen()),
    "vision full": Case("vision", Full()),
    "vision covft cve dense": Case("vision", CoVFT(num_experts=3, context_dim=16)),
    "vision covft cve merged": Case("vision", CoVFT(num_experts=3, context_dim=16, routing="merged")),
    "vision covft text dense": Case("vision", CoVFT(num_experts=3, context_dim=16, context="text")),
    "vision covft uniform": Case("vision", CoVFT(num_experts=3, context_dim=16, routing="uniform")),
    "vision covft one expert": Case("vision", CoVFT(num_experts=1, context_dim=16)),
    "projector frozen": Case("projector", Frozen()),
    "projector full": Case("projector", Full()),
    "language frozen": Case("language", Frozen()),
    "language full": Case("language", Full()),
    "head none": Case("head", NoHead()),
}
"""By a name that tests show. Every entry of every table must have one: ``test_every_method`` checks it."""
